"""Whether a checkpoint of a job fits on the disk of its output folder."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

from trl_deepseek.errors import ConfigError


def checkpoint_bytes(job: Any) -> int:
    """Bytes of one checkpoint: the weights that are trained and the optimizer's states of them."""
    import torch

    from trl_deepseek import models
    from trl_deepseek.memory.estimate import state_bytes
    from trl_deepseek.memory.rehearsal import Step, assemble

    shape = models.load_config(job.model, job.registry, job.model_options.model_revision)
    dtype = getattr(torch, str(job.model_options.dtype), torch.float32)
    step = Step(1, 1, False, dtype, None, job.config.sequence_classification)
    model = assemble(shape, step, job.quantization, copy.deepcopy(job.adapter))
    optimizer = str(getattr(job.config.optim, "value", job.config.optim))
    with_states = job.config.save_strategy != "no" and not job.config.save_only_model
    return sum(
        p.nbytes + (state_bytes(p.numel(), p.element_size(), optimizer) if with_states else 0)
        for p in model.parameters()
        if p.requires_grad
    )


def check(job: Any) -> tuple[int, int]:
    """The bytes of a checkpoint and those that are free.

    Raises:
        ConfigError: They are too few; names the folder.
    """
    folder = Path(job.config.output_dir).absolute()
    there = next(each for each in (folder, *folder.parents) if each.exists())
    needed, free = checkpoint_bytes(job), shutil.disk_usage(there).free
    # The newest is written before the oldest goes.
    kept = 2 if job.config.save_total_limit else 1
    if needed * kept > free:
        raise ConfigError(
            f"output_dir: {kept} checkpoint{'s' * (kept > 1)} of {needed / 1e9:.1f} GB "
            f"{'do' if kept > 1 else 'does'} not fit into the {free / 1e9:.1f} GB that are free on "
            f"the disk of {job.config.output_dir!r}\n"
            "  name a folder on another disk, or save less: --save_only_model, LoRA"
        )
    return needed, free
