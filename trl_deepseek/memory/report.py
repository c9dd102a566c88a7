"""What a training job would take in memory, from the model's config alone.

No weights, no dataset and no GPU are needed. The figures are those of a run on a GPU, in bfloat16
unless the precision is given, with the optimizer that the quantization would pick there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from trl_deepseek import models
from trl_deepseek.errors import ConfigError
from trl_deepseek.losses.plan import plan
from trl_deepseek.memory.estimate import busiest, estimate, largest_batch
from trl_deepseek.memory.rehearsal import Step, rehearse

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
PROMPT_LENGTH = 512  # tokens of prompt assumed where a trainer only limits the completion
# Of the memory of a GPU: its context, and blocks that PyTorch's allocator cannot reuse.
RESERVED = 600 * 10**6
FRAGMENTATION = 0.05
ROWS = ("weights", "reference", "adapters", "gradients", "optimizer", "activations", "head")


def parse_size(text: str) -> int:
    """Bytes of ``24GB``, ``22.5GiB`` or a plain number of bytes.

    Raises:
        ConfigError: It is none of these.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMG]i?B)?\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"--gpu_memory {text!r} is no size; write 24GB or 22.5GiB")
    return int(float(match[1]) * UNITS.get((match[2] or "").upper(), 1))


def answer_for(
    job: Any, budget: int | None, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Everything that is printed, as one JSON object; sizes in bytes.

    Args:
        job: As ``settle`` of its kind returns it.
        budget: Memory to fit into, in bytes; None to look for no largest batch.
        tell: Called with what is being tried.

    Raises:
        UserError: The model cannot be found, or no length is known.
    """
    config, chosen, adapter = job.config, job.quantization, job.adapter
    shape = models.load_config(
        job.model, job.registry, job.model_options.model_revision, trust=config.trust_remote_code
    )
    losses = plan(config, job.registry)
    tell("one training step without data")
    step = replace(_step(job), lean_head=bool(losses.losses))
    optimizer = str(getattr(config.optim, "value", config.optim))
    if chosen is not None and chosen.optimizer and "optim" not in job.options.given:
        optimizer = chosen.optimizer
    accumulates = config.gradient_accumulation_steps > 1
    found = estimate(
        shape,
        step,
        quantization=chosen,
        adapter=adapter,
        optimizer=optimizer,
        accumulates=accumulates,
        # GRPO without a KL term compares with nothing.
        holds_reference=config.compares_with_reference
        and losses.needs_reference
        and getattr(config, "beta", None) != 0.0,
    )
    per_example = config.sequences_per_example
    answer: dict[str, Any] = {
        "model": job.model,
        "quantization": config.quantization,
        "precision": str(step.autocast or step.dtype).removeprefix("torch."),
        "optimizer": optimizer,
        "batch": step.sequences // per_example,
        "sequences": step.sequences,
        "length": step.length,
        "gradient_checkpointing": step.checkpointing,
        "parameters": found.parameters,
        "trainable": found.trainable,
        "groups": [vars(group) for group in found.groups],
        **{f"{row}_bytes": getattr(found, row) for row in ROWS},
        "sum_bytes": found.sum,
        "peak_bytes": found.peak,
        "reserved_bytes": RESERVED + int(FRAGMENTATION * found.peak),
    }
    if budget is not None:
        usable = int((budget - RESERVED) / (1 + FRAGMENTATION))

        def peak(batch: int) -> int:
            tell(f"looking for the largest batch: {batch}")
            wider = replace(step, sequences=batch * per_example)
            needed = rehearse(shape, wider, chosen, adapter)
            return found.held + busiest(needed, found.gradients, accumulates)

        answer |= {
            "gpu_memory_bytes": budget,
            "fits": found.peak <= usable,
            "largest_batch": largest_batch(usable, peak),
        }
    return answer


def _step(job: Any) -> Step:
    config, dtype = job.config, job.model_options.dtype
    is_adapter_run = job.quantization is not None
    mixed: torch.dtype | None = torch.bfloat16
    if config.fp16:
        mixed = torch.float16
    elif "bf16" in job.options.given and not config.bf16:
        mixed = None
    held = getattr(torch, dtype) if dtype not in (None, "auto") else None
    if held is None:
        held = (mixed or torch.float32) if is_adapter_run else torch.float32
    completion = getattr(config, "max_completion_length", None)
    limit = getattr(config, "max_length", None)
    length = PROMPT_LENGTH + completion if completion else limit
    if length is None:
        raise ConfigError("--dry_run needs to know how long a sequence is: give --max_length")
    return Step(
        sequences=config.per_device_train_batch_size * config.sequences_per_example,
        length=length,
        checkpointing=config.gradient_checkpointing,
        dtype=held,
        autocast=mixed,
        sequence_classification=config.sequence_classification,
    )
