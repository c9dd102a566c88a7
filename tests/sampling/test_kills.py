"""A sampling that is killed with SIGKILL, again and again, ends in the file of one undisturbed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
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
    killed = 0
    for attempt in range(40):
        run = subprocess.Popen(command(tmp_path / "cut.jsonl"), env=env, stderr=subprocess.PIPE)
        journal = tmp_path / ".cut.jsonl.sampling"
        before = journal.stat().st_size if journal.exists() else 0
        # until it has got on a little, and then some instants more
        while run.poll() is None and attempt < 5:
            if journal.exists() and journal.stat().st_size > before:
                time.sleep(random.Random(attempt).random() * 0.3)
                run.send_signal(signal.SIGKILL)
                run.wait()
        killed += run.wait() == -signal.SIGKILL
        if run.returncode == 0:
            break
        assert run.returncode == -signal.SIGKILL, run.stderr and run.stderr.read().decode()
    assert killed >= 1
    cut = (tmp_path / "cut.jsonl").read_bytes()
    assert cut == (tmp_path / "whole.jsonl").read_bytes()
