"""Rewards in worker processes of a run on two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trl_deepseek.rewards.history import read

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


@pytest.mark.slow
def test_two_processes_score_in_workers_and_one_saves_what_both_generated(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launcher, str(script), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
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
