"""Runs on several processes: they agree on stopping, and one speaks for all."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from trl_deepseek.cli import ranks

PLUGIN = """
import os, signal
from transformers.trainer_callback import DefaultFlowCallback
from trl_deepseek import hookimpl

begin = DefaultFlowCallback.on_step_begin

def on_step_begin(self, args, state, control, **kwargs):
    if state.global_step == 1 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return begin(self, args, state, control, **kwargs)

DefaultFlowCallback.on_step_begin = on_step_begin

@hookimpl
def register_rewards(register):
    pass
"""
LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m")


def launch(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *LAUNCHER, "trl_deepseek", *words],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )


@pytest.mark.matrix
@pytest.mark.slow
def test_a_signal_to_one_rank_ends_all_of_them_after_the_same_step(
    folder: Path, words: Callable[..., list[str]]
) -> None:
    (folder / "plugin.py").write_text(PLUGIN)
    done = launch(words("sft", plugins="plugin.py", use_cpu="true", bf16="false", save_steps=50))
    assert done.returncode != 0
    assert done.stderr.count("ended by SIGTERM; the last checkpoint is out/checkpoint-2;") == 1
    assert [path.name for path in (folder / "out").glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.matrix
@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_an_error_of_all_ranks_is_said_once(words: Callable[..., list[str]]) -> None:
    done = launch(words("sft", dataset_name="none.jsonl", use_cpu="true", bf16="false"))
    assert done.returncode != 0
    assert done.stderr.count("data file 'none.jsonl' does not exist") == 1


def test_the_first_rank_speaks_for_those_that_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    store = HashStore()
    monkeypatch.setattr(ranks, "store_of_the_run", lambda: store)
    monkeypatch.setattr(ranks, "PATIENCE", 0.01)
    monkeypatch.setenv("RANK", "1")
    assert ranks.message_of_this_rank("no room") == "rank 1: no room"  # it alone has failed
    monkeypatch.setenv("RANK", "0")
    assert ranks.message_of_this_rank("no room") == "no room"
    monkeypatch.setenv("RANK", "1")
    assert ranks.message_of_this_rank("no room") is None
    assert ranks.message_of_this_rank("no file") == "rank 1: no file"
    monkeypatch.setattr(ranks, "store_of_the_run", lambda: None)
    assert ranks.message_of_this_rank("no room") == "rank 1: no room"
