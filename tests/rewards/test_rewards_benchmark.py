from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.matrix
@pytest.mark.slow
def test_the_benchmark_scores_alike_on_both_sides_and_loses_only_what_hangs(
    repository: Path,
) -> None:
    script = repository / "benchmarks" / "rewards.py"
    done = subprocess.run(
        [sys.executable, script, "--completions", "16", "--milliseconds", "1", "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert figures["hang_lost"] == 1
    assert figures["hang_seconds"] >= figures["hang_timeout"]
