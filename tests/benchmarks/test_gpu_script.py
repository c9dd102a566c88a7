"""``benchmarks/gpu.sh``, which must work the first time where there is a GPU, without one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import run


def part(code: str) -> run.Part:
    return run.Part("Steps", ["-c", code], 60, ("1B", *run.STEPS), run.step_row)


def measured(code: str, tmp_path: Path, limit: float = 60.0) -> str:
    log = tmp_path / "log"
    wrong, _ = run.run(part(code), limit, log)
    return run.table(part(code), run.read(log, wrong))


PLAN = 'print(\'RESULT {"plan": ["dpo", "orpo", "grpo"]}\', flush=True)\n'
CELL = '{"cell": "dpo", "seconds": 0.5, "losses": [0.69], "bytes": 2e9}'
DPO = f"print('RESULT {CELL}', flush=True)\n"
HEAD = """### Steps

| 1B | a step | of it the update | peak | first losses |
|---|---|---|---|---|
| dpo | 500.0 ms |  | 2.00 GB | 0.6900 |
"""


def test_what_a_crash_cuts_off_stands_in_the_table_with_the_reason(tmp_path: Path) -> None:
    orpo = 'print(\'RESULT {"cell": "orpo", "failed": "OutOfMemoryError: 80 GB"}\')\n'
    assert measured(f"{PLAN}{DPO}{orpo}raise SystemExit(3)", tmp_path) == (
        f"{HEAD}| orpo | not measured: OutOfMemoryError: 80 GB |  |  |  |\n"
        "| grpo | not measured: ended with exit code 3 |  |  |  |"
    )


def test_a_part_that_hangs_is_cut_off_and_keeps_what_it_measured(tmp_path: Path) -> None:
    hang = f"{PLAN}{DPO}import time; time.sleep(600)"
    assert measured(hang, tmp_path, limit=1.5) == (
        f"{HEAD}| orpo | not measured: cut off after 2 s |  |  |  |\n"
        "| grpo | not measured: cut off after 2 s |  |  |  |"
    )


def test_a_part_that_does_not_start_says_its_last_line(tmp_path: Path) -> None:
    table = measured("raise ImportError('no trl')", tmp_path)
    assert table.splitlines()[-1] == (
        "| all | not measured: ended with exit code 1: ImportError: no trl |  |  |  |"
    )


def test_the_parts_together_fit_eight_minutes() -> None:
    assert run.SECONDS < 480
    assert sum(each.limit for each in run.PARTS[:4]) <= run.SECONDS


@pytest.mark.matrix
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there: run the script itself")
def test_a_dry_run_measures_every_cell_but_memory(repository: Path, tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    parts = ["Log-probs", "Steps at 1B", "Attention", "Memory", "QLoRA"]
    done = subprocess.run(
        [str(repository / "benchmarks" / "gpu.sh"), str(tmp_path), "no-wheels", "1800", *parts],
        env={**env, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert [len(each["cells"]) for each in found.values()] == [6, 8, 12, 3, 3]
    assert not [c for each in found.values() for c in each["cells"].values() if "failed" in c]
    assert (tmp_path / "results.md").read_text() in done.stdout
