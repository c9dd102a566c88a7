"""A run of several processes: on what they meet, how long they wait, how many a plan is for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

_planned: ContextVar[int] = ContextVar("_planned", default=1)


@contextlib.contextmanager
def planned(number: int) -> Iterator[None]:
    """Meanwhile this one process checks what ``number`` will train: see ``world_size`` of configs.

    A batch, and what has to divide it, is that of all processes.
    """
    token = _planned.set(number)
    try:
        yield
    finally:
        _planned.reset(token)


def number_planned() -> int:
    """How many processes will train; 1 where nobody said, and in a run itself."""
    return _planned.get()


def accumulated(args: Any) -> dict[str, int]:
    """The fields by which one process makes the batches of those that are planned.

    Args:
        args: A config, or options, of one of them.
    """
    names = ("gradient_accumulation_steps", "steps_per_generation")
    given = {name: getattr(args, name, None) for name in names}
    return {name: value * number_planned() for name, value in given.items() if value}


def settle_device(args: Any) -> None:
    """Let the processes of a launcher train together on CPUs where there is nothing else.

    Without ``use_cpu``, accelerate takes each of them for a run of its own there: as many
    trainings, of the same rows, into one folder. DeepSpeed meets by itself.
    """
    import torch

    if int(os.environ.get("LOCAL_RANK", "-1")) == -1:
        return
    if args.deepspeed or _is_set("ACCELERATE_USE_DEEPSPEED"):
        return
    device = torch.accelerator.current_accelerator()
    if device is None or device.type == "mps" or _is_set("ACCELERATE_USE_CPU"):
        args.use_cpu = True


def _is_set(flag: str) -> bool:
    """Whether a launcher of accelerate has set a variable, which it reads in these words."""
    return os.environ.get(flag, "").lower() in ("1", "y", "yes", "t", "true", "on")


def hold_to_timeout(args: Any) -> None:
    """Let processes on CPUs wait for each other for ``ddp_timeout`` seconds.

    transformers hands that number over for GPUs alone, so that on CPUs those who wait for a process
    that hangs do so for torch's half an hour.
    """
    if not args.use_cpu:
        return
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=args.ddp_timeout))
