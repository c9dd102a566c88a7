"""The contract in the training process: deadlines, policies, counting, equal samples."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from trl_deepseek.errors import RewardError
from trl_deepseek.registry import Registry
from trl_deepseek.rewards.contract import GuardedReward, Settings
from trl_deepseek.rewards.placing import Guards
from trl_deepseek.workers.calls import judge

NOBODY = Registry([])


def guarded(function: Callable[..., Any], tmp_path: Path, **settings: Any) -> GuardedReward:
    settings.setdefault("output_dir", str(tmp_path))
    guard = Guards([function], NOBODY, Settings(**settings), "<think>\n").functions[0]
    assert isinstance(guard, GuardedReward)
    return guard


def score(guard: GuardedReward, completions: list[Any], **columns: Any) -> list[float | None]:
    return asyncio.run(
        guard(
            prompts=[f"p{i}" for i in range(len(completions))],
            completions=completions,
            completion_ids=[[i] for i in range(len(completions))],
            trainer_state=SimpleNamespace(global_step=7),
            **columns,
        )
    )


@pytest.mark.parametrize(
    ("value", "scores"),
    [
        ([1, True], [1.0, 1.0]),
        ((0.5, None), [0.5, None]),
        (np.array([0.5, 1]), [0.5, 1.0]),
        (torch.tensor([0.5, 1]), [0.5, 1.0]),
        ([np.float32(0.5), torch.tensor(1.0)], [0.5, 1.0]),
        ((float(i) for i in range(2)), [0.0, 1.0]),
    ],
)
def test_every_kind_of_number_is_a_score(value: Any, scores: list[float | None]) -> None:
    assert judge(value, 2) == scores


def test_a_score_that_would_overflow_is_a_failure(tmp_path: Path) -> None:
    guard = guarded(lambda completions: [1e19, 1e18], tmp_path, on_error="abstain")
    assert score(guard, ["a", "b"]) == [None, 1e18]


def test_raise_names_reward_step_and_sample_and_keeps_the_batch(tmp_path: Path) -> None:
    def picky(completion: str, solution: str) -> float:
        if completion == "bad":
            raise KeyError("colour")
        return 1.0

    guard = guarded(picky, tmp_path)
    with pytest.raises(RewardError) as caught:
        score(guard, ["good", "bad"], solution=["4", "5"])
    file = tmp_path / "reward_failures" / "step-000007-picky.jsonl"
    head = str(caught.value).split("\n    Traceback")[0]
    assert re.sub(r"\([^)]*test_reward_contract.py\)", "(FILE)", head) == (
        "reward 'picky' (FILE) failed on 1 of 2 completions at step 7: KeyError: 'colour'\n"
        "  sample 1, prompt: 'p1'\n"
        "  completion: 'bad'\n"
        f"  the batch is kept in {file}\n"
        "  to train on without such scores: reward_on_error abstain, or a number instead"
    )
    assert "raise KeyError" in str(caught.value)
    first, second = map(json.loads, file.read_text().splitlines())
    assert (first["completion"], first["solution"], first["score"]) == ("bad", "5", None)
    assert first["failure"]["message"] == "KeyError: 'colour'"
    assert (second["completion"], second["score"], second["failure"]) == ("good", 1.0, None)


def test_a_reward_that_fails_wholly_three_times_running_stops_the_run(tmp_path: Path) -> None:
    def broken(completions: list[str]) -> list[float]:
        raise OSError("no network")

    guard = guarded(broken, tmp_path, on_error=0.0)
    assert [score(guard, ["a"]) for _ in range(2)] == [[0.0], [0.0]]
    with pytest.raises(RewardError, match="failed on every completion of 3 calls in a row"):
        score(guard, ["a"])


def test_one_good_sample_starts_the_count_of_failed_calls_again(tmp_path: Path) -> None:
    def fragile(completion: str) -> float:
        return {"good": 1.0}[completion]

    guard = guarded(fragile, tmp_path, on_error="abstain", max_failures=2)
    for _ in range(3):
        assert score(guard, ["bad"]) == [None]
        assert score(guard, ["bad", "good"]) == [None, 1.0]


def test_equal_samples_are_scored_once_and_all_get_the_score(tmp_path: Path) -> None:
    calls = []

    def counts(completion: str, solution: str) -> float:
        calls.append((completion, solution))
        return float(completion == solution)

    guard = guarded(counts, tmp_path)
    assert score(guard, ["4", "4", "4", "5"], solution=["4", "4", "5", "5"]) == [1, 1, 0, 1]
    assert calls == [("4", "4"), ("4", "5"), ("5", "5")]


def test_a_batch_reward_sees_the_whole_batch_and_what_it_logs_arrives(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    logged: list[Any] = []

    def whole(completions: list[str], log_metric: Any, log_extra: Any, **columns: Any) -> Any:
        seen.update(columns, completions=completions)
        log_metric("length", 2)
        log_extra("first", [c[0] for c in completions])
        return np.zeros(len(completions))

    guard = guarded(whole, tmp_path)
    assert (
        score(
            guard,
            ["aa", "aa", "b"],
            level=[1, 2, 3],
            log_metric=lambda *pair: logged.append(pair),
            log_extra=lambda *pair: logged.append(pair),
        )
        == [0.0] * 3
    )
    assert seen["completions"] == ["aa", "aa", "b"]
    assert seen["level"] == [1, 2, 3]
    assert seen["generation_prefix"] == "<think>\n"
    assert logged[:2] == [("length", 2.0), ("first", ["a", "a", "b"])]


def test_a_per_sample_reward_gets_text_its_row_and_the_prefix(tmp_path: Path) -> None:
    def one(completion: str, prompt: str, level: int, generation_prefix: str) -> float:
        assert (completion, prompt, generation_prefix) == ("four", "p0", "<think>\n")
        return float(level)

    guard = guarded(functools.partial(one), tmp_path)
    assert guard.__name__ == "one"
    assert score(guard, [[{"role": "assistant", "content": "four"}]], level=[3]) == [3.0]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_whatever_a_reward_raises_is_a_failure_of_that_sample(
    tmp_path: Path, error: type[BaseException]
) -> None:
    def leaves(completion: str) -> float:
        if completion == "bad":
            raise error("now")
        return 1.0

    async def leaves_async(completion: str) -> float:
        return leaves(completion)

    for function in (leaves, leaves_async):
        guard = guarded(function, tmp_path, on_error=-1.0, timeout=5.0)
        assert score(guard, ["a", "bad", "c"]) == [1.0, -1.0, 1.0]


class Blocks:
    """Scores at once, except where the completion is ``hang``: there once it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def __call__(self, completion: str) -> float:
        if completion == "hang":
            self.release.wait()
        return 1.0


def test_a_hanging_sample_costs_its_score_and_the_timeout_once(tmp_path: Path) -> None:
    blocks = Blocks()
    guard = guarded(blocks, tmp_path, on_error="abstain", timeout=0.3)
    started = time.monotonic()
    assert score(guard, ["a", "hang", "b", "hang"]) == [1.0, None, 1.0, None]
    assert time.monotonic() - started >= 0.3
    blocks.release.set()


async def waits(completion: str) -> float:
    await asyncio.sleep(3600 if completion == "hang" else 0)
    return 1.0


async def blocks_the_loop(completion: str) -> float:
    if completion == "block":
        time.sleep(3600)
    return 1.0


def test_an_async_reward_that_hangs_costs_that_sample(tmp_path: Path) -> None:
    guard = guarded(waits, tmp_path, on_error=-1.0, timeout=0.3)
    assert score(guard, ["a", "hang", "b"]) == [1.0, -1.0, 1.0]


def test_an_async_reward_that_blocks_its_loop_is_given_up_and_scores_again_later(
    tmp_path: Path,
) -> None:
    guard = guarded(blocks_the_loop, tmp_path, on_error="abstain", timeout=0.3)
    assert score(guard, ["block", "b"])[0] is None
    assert score(guard, ["a", "b"]) == [1.0, 1.0]


def test_async_samples_are_scored_together(tmp_path: Path) -> None:
    together = asyncio.Barrier(3)

    async def meets(completion: str) -> float:
        await asyncio.wait_for(together.wait(), 60)
        return 1.0

    assert score(guarded(meets, tmp_path), ["a", "b", "c"]) == [1.0] * 3


def test_rewards_run_side_by_side(tmp_path: Path) -> None:
    together = threading.Barrier(2, timeout=60)

    def left(completions: list[str]) -> list[float]:
        together.wait()
        return [1.0]

    def right(completions: list[str]) -> list[float]:
        together.wait()
        return [2.0]

    guards = [guarded(f, tmp_path) for f in (left, right)]

    async def both() -> Any:
        arguments: Any = {"prompts": ["p"], "completions": ["c"], "completion_ids": [[1]]}
        return await asyncio.gather(*(guard(**arguments) for guard in guards))

    assert asyncio.run(both()) == [[1.0], [2.0]]
