"""A sampling that is killed with SIGKILL, twice, ends in the file of one undisturbed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import sys
from trl_deepseek.cli.main import main
from trl_deepseek.jobs import sample
sample.AT_ONCE = 8
sys.exit(main(sys.argv[1:]))
"""


def command(output: Path) -> list[str]:
    words = (
        "sample --model_name_or_path tiny-deepseek-llm --dataset_name arithmetic --max_samples 40"
    )
    words += " --num_samples 4 --max_new_tokens 24 --reward_funcs exact_match think_format"
    words += f" --chat_template deepseek-v3 --output_file {output}"
    return [sys.executable, "-c", RUN, *words.split()]


@pytest.mark.slow
@pytest.mark.matrix
def test_killed_at_any_instant_it_ends_in_the_same_file(tmp_path: Path) -> None:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command(tmp_path / "whole.jsonl"), check=True, env=env, capture_output=True)
    journal = tmp_path / ".cut.jsonl.sampling"
    for _ in range(2):
        run = subprocess.Popen(command(tmp_path / "cut.jsonl"), env=env)
        before = journal.stat().st_size if journal.exists() else 0
        while not journal.exists() or journal.stat().st_size <= before:
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(0.02)
            assert run.returncode is None, "it ended before it could be killed"
        run.kill()
        assert run.wait() == -signal.SIGKILL
        assert not (tmp_path / "cut.jsonl").exists()
    subprocess.run(command(tmp_path / "cut.jsonl"), check=True, env=env, capture_output=True)
    cut = (tmp_path / "cut.jsonl").read_bytes()
    assert cut == (tmp_path / "whole.jsonl").read_bytes()
