"""Rewards in worker processes: from plain files and scripts, under each start method."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.errors import ConfigError
from trl_deepseek.registry import Registry
from trl_deepseek.rewards import resolve
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.rewards.placing import Guards
from trl_deepseek.types import Reward

NOBODY = Registry([])
FILE = """
import os

SCORE = 1.0

def where(completions, **_):
    return [float(os.getpid())] * len(completions)

def length(completion: str, log_metric) -> float:
    log_metric("characters", len(completion))
    return SCORE * len(completion)

def alone(completions, **_):
    return [float(len(completions))] * len(completions)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def score(guard: Any, completions: list[str], **columns: Any) -> list[float | None]:
    return asyncio.run(
        guard(
            prompts=[f"p{i}" for i in range(len(completions))],
            completions=completions,
            completion_ids=[[i] for i in range(len(completions))],
            **columns,
        )
    )


def test_a_reward_from_a_plain_file_runs_in_another_process(file: Path) -> None:
    guards = Guards(resolve(f"{file}:where", NOBODY), NOBODY, Settings(workers=1))
    (process,) = set(score(guards.functions[0], ["a", "b"]))
    guards.close()
    assert process != os.getpid()


def test_a_file_edited_during_the_run_still_runs_as_it_was(file: Path) -> None:
    guards = Guards(resolve(f"{file}:length", NOBODY), NOBODY, Settings(isolate=True))
    file.write_text(FILE.replace("SCORE = 1.0", "SCORE = 2.0"))
    for process in guards._pools[0]._processes.values():
        process.kill()
    logged: list[Any] = []
    scores = score(guards.functions[0], ["abc"] * 2, log_metric=lambda *x: logged.append(x))
    guards.close()
    assert scores == [3.0, 3.0]
    assert ("characters", 3.0) in logged


def test_a_samplewise_batch_reward_is_called_sample_by_sample(file: Path) -> None:
    (alone,) = resolve(f"{file}:alone", NOBODY)
    guards = Guards(
        [Reward("alone", alone, samplewise=True), Reward("together", alone)],
        NOBODY,
        Settings(workers=1),
    )
    scores = [score(guard, ["a", "b", "c"]) for guard in guards.functions]
    guards.close()
    assert scores == [[1.0] * 3, [3.0] * 3]


def test_a_row_that_cannot_leave_the_process_fails_and_the_others_are_scored(file: Path) -> None:
    file.write_text(FILE + "def row(completion: str, extra) -> float:\n    return 1.0\n")
    settings = Settings(workers=1, on_error="abstain")
    guards = Guards(resolve(f"{file}:row", NOBODY), NOBODY, settings)
    extra = [1, 2, lambda: 3, 4]
    scores = score(guards.functions[0], ["a", "b", "c", "d"], extra=extra)
    guards.close()
    assert scores == [1.0, 1.0, None, 1.0]


def test_a_large_batch_of_arguments_reaches_the_workers(file: Path) -> None:
    guards = Guards(resolve(f"{file}:length", NOBODY), NOBODY, Settings(workers=2))
    texts = [str(i % 10) * (200_000 + i) for i in range(20)]
    assert score(guards.functions[0], texts) == [float(len(text)) for text in texts]
    guards.close()


def test_an_isolated_reward_that_no_worker_can_find_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        Guards([lambda completion: 1.0], NOBODY, Settings(isolate=True))
    assert str(caught.value).startswith("reward '<lambda>' cannot run in a worker process: ")
    assert str(caught.value).endswith(
        "define it at the top level of a module or file, not inside a function or a class"
    )


def test_a_reward_whose_module_does_not_load_in_a_worker_is_refused_at_once(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("import os\nassert 'TRL_DEEPSEEK_REWARD_WORKER' not in os.environ\n" + FILE)
    with pytest.raises(ConfigError, match="reward 'where' does not load in a worker process: Asse"):
        Guards(resolve(f"{file}:where", NOBODY), NOBODY, Settings(isolate=True))


SCRIPT = """
import asyncio, multiprocessing, sys
from trl_deepseek.registry import Registry
from trl_deepseek.rewards import resolve
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.rewards.placing import Guards

def here(completion: str) -> float:
    return float(multiprocessing.current_process().name == "MainProcess")

def main():
    if sys.argv[1] != "none":
        multiprocessing.set_start_method(sys.argv[1])
    registry = Registry([])
    functions = resolve([here, sys.argv[2] + ":length"], registry)
    guards = Guards(functions, registry, Settings(workers=2))
    for guard in guards.functions:
        print(asyncio.run(guard(prompts=["p"], completions=["abc"], completion_ids=[[1]])))

"""
GUARD = "if __name__ == '__main__':\n    main()\n"


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_reward_of_the_script_itself_works_under_each_start_method(
    tmp_path: Path, file: Path, method: str
) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT + GUARD)
    done = run(script, method, str(file))
    assert (done.stdout, done.returncode) == ("[1.0]\n[3.0]\n", 0), done.stderr


def test_a_script_that_trains_when_imported_is_told_so(tmp_path: Path, file: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT + "main()\n")
    done = run(script, "none", str(file))
    assert done.returncode == 1
    assert "a worker process of a reward would start the training again" in done.stderr
    assert "put what runs into `if __name__ == '__main__':`" in done.stderr


HANGING = """
import asyncio, os, subprocess, sys, time
from trl_deepseek.registry import Registry
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.rewards.placing import Guards

def hangs(completion: str) -> float:
    subprocess.Popen(["sleep", "3600"])
    print("hangs", flush=True)
    open(os.environ["HANGING"], "w").close()
    while True:
        time.sleep(3600)

if __name__ == "__main__":
    settings = Settings(workers=int(sys.argv[1]), timeout=3600.0)
    (guard,) = Guards([hangs], Registry([]), settings).functions
    asyncio.run(guard(prompts=["p"], completions=["c"], completion_ids=[[1]]))
"""


def marked(mark: str) -> dict[int, str]:
    """Id and name of each living process with ``mark`` in its environment."""
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found[int(folder.name)] = (folder / "comm").read_text().strip()
    return found


def until(condition: Callable[[], bool], seconds: float = 300.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize(
    ("workers", "end", "left"),
    [
        pytest.param(1, signal.SIGINT, [], id="workers-interrupted"),
        pytest.param(1, signal.SIGKILL, [], id="workers-killed"),
        # Without workers, a reward's own children outlive a training process.
        pytest.param(0, signal.SIGINT, ["sleep"], id="thread-interrupted"),
    ],
)
def test_a_run_that_ends_while_a_reward_hangs_ends_at_once_and_takes_its_workers_along(
    tmp_path: Path, workers: int, end: signal.Signals, left: list[str]
) -> None:
    script, began = tmp_path / "train.py", tmp_path / "began"
    script.write_text(HANGING)
    mark = f"HANGING={began}"
    with subprocess.Popen(
        [sys.executable, str(script), str(workers)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"HANGING": str(began)},
    ) as process:
        try:
            assert until(began.exists)
            process.send_signal(end)
            process.wait(timeout=300)
            assert until(lambda: list(marked(mark).values()) == left), marked(mark)
        finally:
            for left_over in marked(mark):
                os.kill(left_over, signal.SIGKILL)
