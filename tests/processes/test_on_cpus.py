"""On what the processes of a launcher meet where there is no accelerator."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from trl_deepseek.processes import settle_device


@pytest.mark.parametrize(
    ("rank", "device", "deepspeed", "on_cpus"),
    [
        ("0", None, None, True),
        ("1", "mps", None, True),  # over which processes cannot meet
        ("0", "cuda", None, False),
        (None, None, None, False),  # one process needs nobody to meet
        ("0", None, "zero2.json", False),
    ],
)
def test_processes_without_an_accelerator_meet_on_cpus(
    rank: str | None,
    device: str | None,
    deepspeed: str | None,
    on_cpus: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = torch.device(device) if device else None
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: found)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    args = SimpleNamespace(use_cpu=False, deepspeed=deepspeed)
    settle_device(args)
    assert args.use_cpu == on_cpus
