"""A reward that fails on one of two processes; see also ``tests/processes``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.matrix
@pytest.mark.slow
def test_a_reward_that_fails_on_one_process_ends_the_run_on_both(tmp_path: Path) -> None:
    done = launch(FAILING, tmp_path, "raise")
    assert done.returncode != 0
    said = "train.py) failed on 4 of 4 completions at step 0: ValueError: out of paper"
    assert f"reward 'on_one_rank' ({tmp_path}/{said}" in done.stderr
    kept = tmp_path / "run" / "reward_failures" / "step-000000-on_one_rank-rank1.jsonl"
    assert len(kept.read_text().splitlines()) == 4
