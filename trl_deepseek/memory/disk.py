"""Bytes that a run writes: its checkpoints and its model, known before the first step."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_deepseek import models
from trl_deepseek.errors import ConfigError
from trl_deepseek.memory.estimate import numel, states_bytes

if TYPE_CHECKING:
    from torch import nn

BESIDE = 1.02  # of the weights and states: the tokenizer, the records, the file system's own


def model_bytes(model: nn.Module, *, adapter: bool) -> int:
    """Of a model as it is saved: all of it once, or what is trained beside a frozen base."""
    return sum(numel(p) * p.element_size() for p in _saved(model, adapter))


def checkpoint_bytes(model: nn.Module, args: Any, *, adapter: bool) -> int:
    """Of one checkpoint: the model, and the optimizer's states unless only models are saved.

    Args:
        model: With or without its weights' values.
        args: The config.
        adapter: Whether an adapter is saved and not the base.
    """
    size = model_bytes(model, adapter=adapter)
    if not args.save_only_model:
        name = str(getattr(args.optim, "value", args.optim))
        size += states_bytes(model, name)
    return int(size * BESIDE)


def _saved(model: nn.Module, adapter: bool) -> Iterator[Any]:
    return (p for p in model.parameters() if p.requires_grad or not adapter)


def copies(args: Any, saves: int | None, there: int = 0) -> int:
    """Checkpoints that will stand beside each other at one time, beyond those that are there.

    An older one goes only when the new one is whole. Without a limit one is counted: the rest may
    be moved elsewhere meanwhile.

    Args:
        args: The config.
        saves: How many are to come; None where that is not known.
        there: How many are in the folder.
    """
    if str(getattr(args.save_strategy, "value", args.save_strategy)) == "no":
        return 0
    limit = args.save_total_limit
    wanted = max(1, limit + 1 - there) if limit else 1
    return wanted if saves is None else min(wanted, max(1, saves))


def free(folder: str | Path) -> int:
    """Bytes that can be written on the disk that a folder is on, or would be."""
    path = Path(folder).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def shortage(folder: str | Path, checkpoint: int, number: int, model: int) -> str | None:
    """What is missing, in a sentence; None where ``number`` checkpoints and a model find room."""
    need, there = checkpoint * number + model, free(folder)
    if need <= there:
        return None
    parts = [f"{number} x {readable(checkpoint)} for checkpoints"] * bool(number)
    parts += [f"{readable(model)} for the model"] * bool(model)
    return (
        f"the disk of {str(folder)!r} has {readable(there)} free, and the run needs "
        f"{readable(need)}: {', '.join(parts)}"
    )


def ways_out(number: int) -> str:
    """What makes a run smaller."""
    fewer = "--save_total_limit 1, " if number > 2 else ""
    return f"make room, name another --output_dir, or write less: {fewer}--save_only_model true"


def readable(count: int) -> str:
    """Bytes for people: ``1.5 GB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.1f} kB"


def check_room(job: Any) -> int:
    """Refuse a checked job whose first checkpoints find no room, from its model's config alone.

    Returns:
        Bytes of a checkpoint.

    Raises:
        ConfigError: Says what is missing.
    """
    import copy

    import torch

    from trl_deepseek.memory.rehearsal import Step, assemble

    args = job.config
    shape = models.load_config(
        job.model, job.registry, job.model_options.model_revision, trust=args.trust_remote_code
    )
    dtype = getattr(torch, job.model_options.dtype or "float32", torch.float32)
    step = Step(1, 1, False, dtype, None, args.sequence_classification)
    model = assemble(shape, step, job.quantization, copy.deepcopy(job.adapter))
    adapter = job.adapter is not None
    size = checkpoint_bytes(model, args, adapter=adapter)
    number = copies(args, None)
    if found := shortage(args.output_dir, size, number, model_bytes(model, adapter=adapter)):
        raise ConfigError(f"output_dir: {found}\n  {ways_out(number)}")
    return size
