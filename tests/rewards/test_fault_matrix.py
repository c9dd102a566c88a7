"""Every misdeed x every form of reward x every policy, in worker processes and without them."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.errors import RewardError
from trl_deepseek.registry import Entry, Origin, Registry
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.rewards.placing import Guards
from trl_deepseek.sources import import_file
from trl_deepseek.types import Reward

faults: Any = import_file(Path(__file__).parent / "faults.py")

TIMEOUT = 0.6
PATIENCE = 60.0  # with a loaded machine; what hangs does so for longer
MARK = "FAULT_MATRIX_RUN"
# What a misdeed is reported as: the metric that counts it, and words of the message.
SAMPLES = {
    "raises": ("errors", "ValueError: boom"),
    "nan": ("errors", "returned nan; return None to abstain"),
    "inf": ("errors", "returned inf"),
    "string": ("errors", "returned the str 'a lot', not a number"),
    "dict": ("errors", "returned the dict {'score': 1.0}, not a number"),
    "list": ("errors", "returned the list [1.0, 2.0], not a number"),
    "hangs": ("timeouts", "did not finish within 0.6 s"),
    "segfault": ("errors", "was killed by SIGSEGV"),
    "exits": ("errors", "ended with exit code 3"),
    "allocates": ("errors", "MemoryError"),
    "prints": ("timeouts", "did not finish within 0.6 s"),
    # A busy machine may reach the deadline before the 65th child.
    "forks": ("either", ""),
    "deadlocks": ("timeouts", "did not finish within 0.6 s"),
}
BATCHES = {
    "wrong length": ("errors", "returned 1 scores for 3 completions"),
    "scalar": ("errors", "returned the float 1.0, not a list of 3 scores"),
    "whole string": ("errors", "returned the str 'xxx', not a list of 3 scores"),
    "whole dict": ("errors", "not a list of 3 scores"),
}
# These spoil one score; the others end the call, and with it every sample that shares it.
ONE_SCORE = {"nan", "inf", "string", "dict", "list"}
# What a process survives without isolation, unless it is the process that has to be killed.
SURVIVABLE = {"raises", "hangs", "deadlocks"} | ONE_SCORE | set(BATCHES)


@pytest.fixture(scope="module")
def run_mark() -> Iterator[str]:
    mark = f"{MARK}={uuid.uuid4()}"
    name, value = mark.split("=")
    os.environ[name] = value
    yield mark
    del os.environ[name]


@pytest.fixture(scope="module")
def guards(run_mark: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guards]:
    made = guard_all(str(tmp_path_factory.mktemp("run")), isolate=True)
    yield made
    made.close()
    assert workers_only(run_mark, workers=0), "a process was left behind"


@pytest.fixture(scope="module")
def in_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guards]:
    made = guard_all(str(tmp_path_factory.mktemp("run")), isolate=False)
    yield made
    made.close()


def guard_all(output_dir: str, isolate: bool) -> Guards:
    forms = ("per_sample", "per_sample_async", "batch", "batch_async", "fine")
    rewards = [Reward(form, getattr(faults, form), isolate=isolate) for form in forms]
    origin = Origin("faulty", None, None, None)
    registry = Registry([Entry("rewards", r.name, r, origin) for r in rewards])
    settings = Settings(timeout=TIMEOUT, memory=1 << 30, max_failures=10**6, output_dir=output_dir)
    return Guards(rewards, registry, settings)


def processes(mark: str) -> list[int]:
    """Ids of the living processes that were started with ``mark`` in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has ended since, or is another user's
            continue
    return found


def workers_only(mark: str, workers: int = 5) -> bool:
    """Whether no more than one worker per reward is left, once what was killed has ended.

    A worker is two processes: the one that keeps it, and the one that makes the calls.
    """
    deadline = time.monotonic() + PATIENCE
    while len(processes(mark)) > 2 * workers and time.monotonic() < deadline:
        time.sleep(0.01)
    return len(processes(mark)) <= 2 * workers


def score(
    guards: Guards, form: str, completions: list[str], on_error: Any
) -> tuple[list[float | None], list[float | None], dict[str, float]]:
    """Scores of the faulty reward and of the fine one beside it, and what was logged."""
    by_name = {guard.__name__: guard for guard in guards.functions}
    metrics: dict[str, float] = {}
    arguments: dict[str, Any] = {
        "prompts": [f"p{i}" for i in range(len(completions))],
        "completions": completions,
        "completion_ids": [[i] for i in range(len(completions))],
        "log_metric": metrics.__setitem__,
    }
    guard = by_name[form]
    guard._settings = Settings(**{**vars(guard._settings), "on_error": on_error})

    async def both() -> Any:
        return await asyncio.gather(
            guard(**arguments), by_name["fine"](**arguments), return_exceptions=True
        )

    faulty, fine = asyncio.run(both())
    if isinstance(faulty, BaseException):
        assert fine == [0.5] * len(completions)
        raise faulty
    return faulty, fine, metrics


def cases(kept: set[str] | None = None) -> Iterator[Any]:
    for form in ("per_sample", "per_sample_async", "batch", "batch_async"):
        known = SAMPLES if form.startswith("per_sample") else SAMPLES | BATCHES
        for fault in known:
            if kept is None or fault in kept:
                yield pytest.param(form, fault, *known[fault], id=f"{form}-{fault}")


def check(guards: Guards, form: str, fault: str, metric: str, words: str) -> None:
    """That the misdeed ends as documented under every policy, in time, and alone."""
    completions = ["ok", fault, "ok"]
    lost = {0, 1, 2} if form.startswith("batch") and fault not in ONE_SCORE else {1}
    for on_error in ("abstain", -1.0):
        instead = None if on_error == "abstain" else on_error
        started = time.monotonic()
        scores, fine, metrics = score(guards, form, completions, on_error)
        assert time.monotonic() - started < TIMEOUT + PATIENCE
        assert scores == [instead if i in lost else 1.0 for i in range(3)]
        assert fine == [0.5] * 3
        counts = {k: metrics[f"rewards/{form}/{k}"] for k in ("errors", "timeouts", "abstained")}
        counts["either"] = counts["errors"] + counts["timeouts"]
        assert counts[metric] == counts["either"] == len(lost)
        assert counts["abstained"] == 0.0
    started = time.monotonic()
    with pytest.raises(RewardError) as caught:
        score(guards, form, completions, "raise")
    assert time.monotonic() - started < TIMEOUT + PATIENCE
    message = str(caught.value)
    assert f"reward {form!r} (plugin 'faulty') failed on" in message
    assert words in message


@pytest.mark.parametrize(("form", "fault", "metric", "words"), list(cases()))
def test_a_misdeed_costs_what_it_touched_and_nothing_else(
    guards: Guards, run_mark: str, form: str, fault: str, metric: str, words: str
) -> None:
    check(guards, form, fault, metric, words)
    assert workers_only(run_mark), "a process was left behind"


@pytest.mark.parametrize(
    ("form", "fault", "metric", "words"),
    [
        pytest.param(
            *each.values, id=each.id, marks=[pytest.mark.matrix] * ("deadlocks" in each.id)
        )
        for each in cases(SURVIVABLE)
    ],
)
def test_without_isolation_a_misdeed_that_kills_nothing_ends_alike(
    in_process: Guards, form: str, fault: str, metric: str, words: str
) -> None:
    check(in_process, form, fault, metric, words)


@pytest.mark.parametrize("form", ["per_sample", "per_sample_async", "batch", "batch_async"])
def test_none_abstains_whatever_the_policy(guards: Guards, form: str) -> None:
    for on_error in ("raise", "abstain", -1.0):
        scores, _, metrics = score(guards, form, ["ok", "none", "ok"], on_error)
        assert scores == [1.0, None, 1.0]
        assert metrics[f"rewards/{form}/abstained"] == 1.0
        assert metrics[f"rewards/{form}/errors"] == 0.0
