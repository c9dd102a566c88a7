"""Rewards in worker processes: from plain files and scripts, under each start method."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.errors import ConfigError
from trl_deepseek.registry import Registry
from trl_deepseek.rewards import resolve
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.rewards.guarding import Guards
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
from trl_deepseek.rewards.guarding import Guards

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
        timeout=60,
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
