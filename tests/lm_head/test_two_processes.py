"""Log-probs and gradients of a sharded and of a replicated model are those of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.matrix
@pytest.mark.slow
def test_ddp_and_fsdp2_on_two_processes_give_what_one_process_gives() -> None:
    script = Path(__file__).with_name("two_processes.py")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    done = subprocess.run(
        [sys.executable, *launch], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("errors ")]
    errors = json.loads(line.removeprefix("errors "))
    assert set(errors) == {"ddp", "fsdp2", "fsdp2, head alone"}
    for name, (in_logps, in_gradients) in errors.items():
        assert in_logps < 1e-5, name
        assert in_gradients < 1e-4, name
