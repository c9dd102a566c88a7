"""Two processes train as one does at the same global batch, and each writes what is its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from trl_deepseek.rollouts.history import read
from trl_deepseek.sources import import_file

SCRIPT = Path(__file__).with_name("trainings.py")
NAMES = ("sft", "dpo", "orpo", "kto", "reward", "grpo", "policy")
# `make test` has lm_head/test_two_processes.py and rewards/test_rewards_in_ddp.py.
pytestmark = [pytest.mark.matrix, pytest.mark.slow]
CLOCK = ("step_time",)
CONFIG = Path(__file__).parents[2] / "examples" / "launch" / "fsdp2.yaml"


def launch(module: str, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All trainings by two processes."""
    folder = tmp_path_factory.mktemp("two") / "runs"
    launch("torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SCRIPT), str(folder))
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All trainings by one process."""
    folder = tmp_path_factory.mktemp("one") / "runs"
    trainings: Any = import_file(SCRIPT)
    trainings.everything(folder)
    return folder


def logged(folder: Path, name: str) -> list[dict[str, float]]:
    lines: list[dict[str, float]] = json.loads((folder / "0" / f"{name}.json").read_text())
    return [{key: v for key, v in line.items() if key not in CLOCK} for line in lines]


def weights(folder: Path, rank: int, name: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder / str(rank) / f"{name}.pt")
    return found


def compare(name: str, one: Path, two: Path) -> None:
    expected, found = logged(one, name), logged(two, name)
    assert len(found) == len(expected) == 3
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-5)
    before = weights(one, 0, name)
    for key, value in weights(two, 0, name).items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=1e-6)
        torch.testing.assert_close(weights(two, 1, name)[key], value, rtol=0, atol=0)
    assert expected[0]["loss"] != expected[-1]["loss"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_logged_and_learned_is_what_one_process_logs_and_learns(
    name: str, one: Path, two: Path
) -> None:
    compare(name, one, two)


def test_a_model_split_over_both_learns_the_same(one: Path, tmp_path: Path) -> None:
    words = ("--config_file", str(CONFIG), "--num_processes", "2", "--main_process_port", "0")
    launch("accelerate.commands.accelerate_cli", "launch", *words, str(SCRIPT), str(tmp_path / "w"))
    for name in ("sft", "dpo", "orpo"):
        compare(name, one, tmp_path / "w")


def test_completions_of_both_are_saved_once_with_the_scores_of_the_whole_group(two: Path) -> None:
    rows = list(read(two / "grpo"))
    assert [(row.step, row.group) for row in rows] == [
        (step, 0) for step in range(3) for _ in "four"
    ]
    for start in range(0, 12, 4):
        group = rows[start : start + 4]
        assert len({row.prompt[0]["content"] for row in group}) == 1
        texts = [row.completion[0]["content"] for row in group]
        assert len(set(texts)) == 4
        scores = [len(text) + float(text.count("1")) for text in texts]
        assert [sum(filter(None, row.scores.values())) for row in group] == scores
        spread = torch.tensor(scores).std().item() + 1e-4
        expected = [(score - sum(scores) / 4) / spread for score in scores]
        assert [row.advantage for row in group] == pytest.approx(expected, abs=1e-3)
    assert len({row.prompt[0]["content"] for row in rows}) == 3


def test_abstaining_on_one_process_leaves_the_other_its_scores(two: Path) -> None:
    rows = list(read(two / "abstaining"))
    name = "fails_on_the_last_process"
    assert [row.scores[name] for row in rows] == [1.0, 1.0, None, None] * 3
    assert all(row.scores["length"] == len(row.completion[0]["content"]) for row in rows)
    assert all(line[f"rewards/{name}/errors"] == 2 for line in logged(two, "abstaining"))


def test_the_first_process_prints_the_result_and_the_other_nothing(two: Path) -> None:
    first, second = (json.loads((two / rank / "command.json").read_text()) for rank in ("0", "1"))
    assert second == {"code": 0, "stdout": ""}
    assert first["code"] == 0
    assert json.loads(first["stdout"])["output_dir"] == str(two / "command")
    assert (two / "command" / "model.safetensors").is_file()
