"""One process of a run that is killed or fails ends all, and the message says which it was."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from trl_deepseek.errors import RunError
from trl_deepseek.jobs import peers

CLOSED = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:3")
LATE = RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 10000ms for recv")
OWN = ValueError("out of paper")

WAITED = 50  # seconds; long enough for what takes long on a machine with other work

PLUGIN = """
import os, signal, time
from transformers.trainer_callback import DefaultFlowCallback
from trl_deepseek import hookimpl

begin = DefaultFlowCallback.on_step_begin

def on_step_begin(self, args, state, control, **kwargs):
    if state.global_step == 1 and os.environ["RANK"] == "1":
        {deed}
    return begin(self, args, state, control, **kwargs)

DefaultFlowCallback.on_step_begin = on_step_begin

@hookimpl
def register_rewards(register):
    pass
"""


def met(error: Exception, rank: int, others: dict[int, str], patch: pytest.MonkeyPatch) -> str:
    """What one of three processes says, where others have left their last words."""
    store = HashStore()
    for other, words in others.items():
        store.set(peers.KEY.format(other), words)
    patch.setattr(peers, "store_of_the_run", lambda: store)
    patch.setattr(peers, "PATIENCE", 0.01)
    patch.setenv("RANK", str(rank))
    patch.setenv("WORLD_SIZE", "3")
    return str(peers.explained(error, 10))


def test_who_waited_for_others_names_the_one_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        met(CLOSED, 0, {1: "", 2: "ValueError: no"}, monkeypatch) == "rank 2 failed: ValueError: no"
    )
    assert met(CLOSED, 0, {1: ""}, monkeypatch) == (
        "rank 2 has ended without a word, as a process does that is killed (the launcher says by "
        "what; SIGKILL often comes of a system that is short of memory)"
    )
    assert met(LATE, 2, {0: ""}, monkeypatch) == (
        "rank 1 hangs: the others have waited for it for 10 seconds, which --ddp_timeout sets"
    )


def test_what_is_a_process_s_own_error_stays_that(monkeypatch: pytest.MonkeyPatch) -> None:
    assert met(OWN, 0, {}, monkeypatch) == "out of paper"
    assert met(CLOSED, 0, {1: "", 2: ""}, monkeypatch) == str(CLOSED)  # nobody is missing
    slow = RunError("reward 'judge' failed: the endpoint timed out")
    assert met(slow, 0, {}, monkeypatch) == str(slow)
    monkeypatch.setattr(peers, "store_of_the_run", lambda: None)
    assert peers.explained(CLOSED, 10) is CLOSED


@pytest.mark.matrix
@pytest.mark.slow
@pytest.mark.parametrize(
    ("deed", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "rank 1 has ended without a word"),
        ("raise ValueError('out of paper')", "rank 1: ValueError: out of paper"),
        ("time.sleep(3600)", f"rank 1 hangs: the others have waited for it for {WAITED} seconds"),
    ],
    ids=["killed", "fails", "hangs"],
)
def test_all_end_within_a_minute_of_what_the_others_can_see(
    deed: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "plugin.py").write_text(
        PLUGIN.replace("{deed}", f"print('now', flush=True); {deed}")
    )
    words = [
        *("sft", "--model_name_or_path", "tiny-deepseek-llm", "--dataset_name", "arithmetic"),
        *("--chat_template", "deepseek-v3", "--max_steps", "3", "--report_to", "none"),
        *("--save_strategy", "no", "--output_dir", "out"),  # and no --use_cpu
        *("--plugins", "plugin.py", "--ddp_timeout", str(WAITED)),
    ]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    with (tmp_path / "stderr").open("w") as stderr:
        run = subprocess.Popen(
            [sys.executable, *launcher, "-m", "trl_deepseek", *words],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert run.stdout is not None
        assert any("now" in line for line in run.stdout)
        began = time.monotonic()
        run.communicate(timeout=300)
    assert run.returncode != 0
    assert time.monotonic() - began < 60 + (WAITED if "hangs" in said else 0)
    text = (tmp_path / "stderr").read_text()
    assert said in text, text
