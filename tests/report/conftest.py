from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.cli.main import main
from trl_deepseek.rollouts.history import History

PLUGIN = """
from trl_deepseek import hookimpl

def varied(completions, **_):
    "Length of the answer."
    return [float(len(str(each)) % 7) for each in completions]

@hookimpl
def register_rewards(register):
    register("varied", varied)
"""
FLAGS = ("--use_cpu", "true", "--report_to", "none", "--logging_steps", "1", "--seed", "3")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a plugin and what the other fixtures leave there."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "mine.py").write_text(PLUGIN)
    rows = [{"prompt": f"{n}+1=", "completion": str(n + 1)} for n in range(8)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def place(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, as the working directory."""
    monkeypatch.chdir(world)
    return world


@pytest.fixture(scope="session")
def sft(world: Path) -> Path:
    words = ["--dataset_name", "sums.jsonl", "--max_steps", "2", "--learning_rate", "1e-3"]
    words += ["--plugins", "mine.py", "--output_dir", "sft", "--save_strategy", "no", *FLAGS]
    words += ["--neftune_noise_alpha", "5"]
    with contextlib.chdir(world):
        assert main(["sft", "--model_name_or_path", "tiny-deepseek-llm", *words]) == 0
    return world / "sft"


@pytest.fixture(scope="session")
def grpo(world: Path) -> Path:
    words = ["--dataset_name", "sums.jsonl", "--max_steps", "3", "--reward_funcs", "varied"]
    words += ["think_format", "--reward_weights", "varied=2", "--plugins", "mine.py"]
    words += ["--per_device_train_batch_size", "4", "--num_generations", "2"]
    words += ["--max_completion_length", "4", "--save_steps", "2", "--output_dir", "grpo", *FLAGS]
    with contextlib.chdir(world):
        assert main(["grpo", "--model_name_or_path", "tiny-deepseek-llm", *words]) == 0
    return world / "grpo"


@pytest.fixture
def made_up(tmp_path: Path) -> Callable[..., Path]:
    """Writes the completions of a run that nobody made: ``made_up(steps, texts, scores)``."""

    def make(steps: int, text: Callable[[int, int], str], score: Callable[..., Any]) -> Path:
        history = History(str(tmp_path / "run"), fresh=True)
        for step in range(steps):
            prompts = [f"prompt {n // 2}" for n in range(8)]
            answers = [text(step, n) for n in range(8)]
            history.add(
                step=step,
                mode="train",
                prompts=prompts,
                completions=answers,
                completion_ids=[[1] * len(answer) for answer in answers],
                columns=[{}] * 8,
                scores={"a": [score(step, n) for n in range(8)], "b": [0.5] * 8},
                advantages=[0.0] * 8,
                group_size=2,
                generation_prefix="",
                weights={"a": 1.0, "b": 2.0},
            )
        history.flush()
        return tmp_path / "run"

    return make
