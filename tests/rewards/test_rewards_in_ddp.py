"""Rewards in a run on two processes: in workers, and failing on one of the two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trl_deepseek.rollouts.history import read

SCRIPT = """
import os, sys
from trl_deepseek import GRPOConfig, GRPOTrainer, load_registry

def no_rank(completion: str) -> float:
    assert "RANK" not in os.environ, "a worker must not take itself for a rank"
    return float(len(completion))

if __name__ == "__main__":
    registry = load_registry()
    model, tokenizer = registry.models["tiny-deepseek-llm"]()
    args = GRPOConfig(
        output_dir=sys.argv[1], per_device_train_batch_size=4, num_generations=4, max_steps=2,
        max_completion_length=4, save_strategy="no", report_to="none", use_cpu=True, bf16=False,
        chat_template="role-tokens", reward_workers=1, scale_rewards="none", disable_tqdm=True,
    )
    rows = registry.datasets["arithmetic"](size=8)
    GRPOTrainer(model, [no_rank], args, train_dataset=rows, processing_class=tokenizer).train()
"""

FAILING = """
import os, sys
from trl_deepseek import GRPOConfig, GRPOTrainer, load_registry

def on_one_rank(completion: str) -> float:
    if os.environ["RANK"] == "1":
        raise ValueError("out of paper")
    return float(len(completion))

registry = load_registry()
model, tokenizer = registry.models["tiny-deepseek-llm"]()
args = GRPOConfig(
    output_dir=sys.argv[1], per_device_train_batch_size=4, num_generations=4, max_steps=2,
    max_completion_length=4, save_strategy="no", report_to="none", use_cpu=True, bf16=False,
    chat_template="role-tokens", scale_rewards="none", disable_tqdm=True,
    reward_on_error=sys.argv[2], reward_max_failures=3,
)
rows = registry.datasets["arithmetic"](size=8)
GRPOTrainer(model, [on_one_rank], args, train_dataset=rows, processing_class=tokenizer).train()
"""


def launch(script: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``script`` on two processes; its first argument is the folder ``run``."""
    file = folder / "train.py"
    file.write_text(script)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.run(
        [*launcher, str(file), str(folder / "run"), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.slow
def test_a_reward_that_fails_on_one_process_ends_the_run_on_both(tmp_path: Path) -> None:
    done = launch(FAILING, tmp_path, "raise")
    assert done.returncode != 0
    said = "train.py) failed on 4 of 4 completions at step 0: ValueError: out of paper"
    assert f"reward 'on_one_rank' ({tmp_path}/{said}" in done.stderr
    kept = tmp_path / "run" / "reward_failures" / "step-000000-on_one_rank-rank1.jsonl"
    assert len(kept.read_text().splitlines()) == 4


@pytest.mark.slow
def test_abstaining_on_one_process_leaves_the_other_its_scores(tmp_path: Path) -> None:
    done = launch(FAILING, tmp_path, "abstain")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = list(read(tmp_path / "run"))
    scores = [row.scores["on_one_rank"] for row in rows]
    assert len(scores) == 16
    for start in (0, 8):
        texts = [row.completion[0]["content"] for row in rows[start : start + 4]]
        assert scores[start : start + 4] == [float(len(text)) for text in texts]
        assert scores[start + 4 : start + 8] == [None] * 4


@pytest.mark.slow
def test_two_processes_score_in_workers_and_one_saves_what_both_generated(tmp_path: Path) -> None:
    done = launch(SCRIPT, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = list(read(tmp_path / "run"))
    assert [(row.step, row.group) for row in rows] == [
        (step, group) for step in (0, 1) for group in (0, 0, 0, 0, 1, 1, 1, 1)
    ]
    for start in range(0, 16, 4):
        group = rows[start : start + 4]
        assert len({row.prompt[0]["content"] for row in group}) == 1
        scores = [float(len(row.completion[0]["content"])) for row in group]
        assert [row.scores["no_rank"] for row in group] == scores
        mean = sum(scores) / 4
        assert [row.advantage for row in group] == pytest.approx([s - mean for s in scores])
    assert len({row.prompt[0]["content"] for row in rows}) == 4
