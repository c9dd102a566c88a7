"""``--dry_run``: what a training command would take in memory, from the model's config alone.

No weights, no dataset and no GPU are needed. The figures are those of a run on a GPU, in bfloat16
unless the precision is given, with the optimizer that the quantization would pick there.
"""

from __future__ import annotations

import argparse
import json
import re
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from trl_deepseek.memory.rehearsal import Step

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
PROMPT_LENGTH = 512  # tokens of prompt assumed where a trainer only limits the completion
DEFAULT_OPTIMIZER = "adamw_torch_fused"
# Of the memory of a GPU: its context, and blocks that PyTorch's allocator cannot reuse.
RESERVED = 600 * 10**6
FRAGMENTATION = 0.05
ROWS = ("weights", "reference", "adapters", "gradients", "optimizer", "activations", "head")


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Print the memory that this run would take and end; needs no weights and no data.",
    )
    parser.add_argument(
        "--gpu_memory",
        metavar="SIZE",
        help="With --dry_run: the memory to fit into, such as 24GB; also finds the largest batch.",
    )


def run(args: argparse.Namespace, command: Any) -> int:
    """Estimate and print.

    Args:
        args: The parsed flags of a training command.
        command: Its module; ``choose_config(args)`` there may name another config class.

    Raises:
        UserError: The options contradict each other, or the model cannot be found.
    """
    from trl_deepseek.cli.training import machine_readable

    budget = parse_size(args.gpu_memory) if args.gpu_memory else None
    with machine_readable(args.json):
        answer = answer_for(args, command, budget)
    if args.json:
        print(json.dumps(answer))
    else:
        show(answer)
    return 0


def parse_size(text: str) -> int:
    """Bytes of ``24GB``, ``22.5GiB`` or a plain number of bytes.

    Raises:
        ConfigError: It is none of these.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMG]i?B)?\s*", text, re.IGNORECASE)
    if match is None or float(match[1]) <= 0:
        raise ConfigError(f"--gpu_memory {text!r} is no size; write 24GB or 22.5GiB")
    return int(float(match[1]) * UNITS.get((match[2] or "").upper(), 1))


def answer_for(args: argparse.Namespace, command: Any, budget: int | None) -> dict[str, Any]:
    """Everything that is printed, as one JSON object; sizes in bytes."""
    from dataclasses import replace

    from trl_deepseek import models, quantization
    from trl_deepseek.jobs import adapters
    from trl_deepseek.jobs.options import ModelArguments, build_dataclasses
    from trl_deepseek.memory.estimate import busiest, estimate, largest_batch
    from trl_deepseek.memory.rehearsal import rehearse
    from trl_deepseek.trainers.base import registry_for

    if args.model_name_or_path is None:
        raise ConfigError("--model_name_or_path is required")
    adapters.apply_flags(args)
    choose = getattr(command, "choose_config", None)
    config_class = choose(args) if choose else args.config_class
    config, options = build_dataclasses(args, [config_class, ModelArguments])
    registry = registry_for(config)
    shape = models.load_config(options.model_name_or_path, registry, options.model_revision)
    chosen = quantization.choose(config, registry) or _stock(options)
    adapter = adapters.adapter(args, config, options, registry)
    step = _step(args, config, options, chosen is not None)
    optimizer = str(getattr(config.optim, "value", config.optim))
    if chosen is not None and chosen.optimizer and "optim" not in args.given:
        optimizer = chosen.optimizer
    accumulates = config.gradient_accumulation_steps > 1
    found = estimate(
        shape,
        step,
        quantization=chosen,
        adapter=adapter,
        optimizer=optimizer,
        accumulates=accumulates,
        holds_reference=_holds_reference(config, registry),
    )
    per_example = config.sequences_per_example
    answer: dict[str, Any] = {
        "model": options.model_name_or_path,
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
            wider = replace(step, sequences=batch * per_example)
            needed = rehearse(shape, wider, chosen, adapter)
            return found.held + busiest(needed, found.gradients, accumulates)

        answer |= {
            "gpu_memory_bytes": budget,
            "fits": found.peak <= usable,
            "largest_batch": largest_batch(usable, peak),
        }
    return answer


def _step(args: argparse.Namespace, config: Any, options: Any, is_adapter_run: bool) -> Step:
    import torch

    from trl_deepseek.memory.rehearsal import Step

    mixed: torch.dtype | None = torch.bfloat16
    if config.fp16:
        mixed = torch.float16
    elif "bf16" in args.given and not config.bf16:
        mixed = None
    held = getattr(torch, options.dtype) if options.dtype not in (None, "auto") else None
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


def _stock(options: Any) -> Any:
    """TRL's own quantization flags in our terms; None without them."""
    from trl_deepseek.types import Quantization

    if options.load_in_8bit:
        return Quantization(bits=8)
    if options.load_in_4bit:
        return Quantization(
            bits=4,
            quant_type=options.bnb_4bit_quant_type,
            double_quant=options.use_bnb_nested_quant,
            quantize_experts=False,
        )
    return None


def _holds_reference(config: Any, registry: Any) -> bool:
    """Whether full training with this config keeps a second, frozen model."""
    if not config.compares_with_reference:
        return False
    if getattr(config, "beta", None) == 0.0:
        return False
    named = getattr(config, "loss_type", ())
    names = [named] if isinstance(named, str) else list(named)
    losses = [registry.losses[name] for name in names if name in registry.losses]
    return not losses or any(loss.reference for loss in losses)


def show(answer: dict[str, Any]) -> None:
    """Two tables for people: parameters by kind, and bytes by what holds them."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    by_kind = Table(title=f"{answer['model']}: {answer['parameters']:,} parameters")
    for name in ("", "parameters", "trained"):
        by_kind.add_column(name, justify="left" if not name else "right")
    for group in answer["groups"]:
        by_kind.add_row(group["name"], f"{group['parameters']:,}", f"{group['trainable']:,}")
    by_kind.add_row("sum", f"{answer['parameters']:,}", f"{answer['trainable']:,}", style="bold")
    console.print(by_kind)

    checkpointing = "with" if answer["gradient_checkpointing"] else "without"
    memory = Table(
        title=f"batch {answer['batch']} of {answer['length']} tokens, {answer['precision']}, "
        f"{checkpointing} gradient checkpointing, {answer['optimizer']}"
    )
    memory.add_column("")
    memory.add_column("GB", justify="right")
    names = {"head": "logits and head", "reference": "reference model"}
    for row in ROWS:
        if answer[f"{row}_bytes"]:
            memory.add_row(names.get(row, row), f"{answer[f'{row}_bytes'] / 1e9:.2f}")
    memory.add_row("sum", f"{answer['sum_bytes'] / 1e9:.2f}", style="bold", end_section=True)
    memory.add_row("most at one time", f"{answer['peak_bytes'] / 1e9:.2f}", style="bold")
    memory.add_row("GPU context, fragmentation", f"{answer['reserved_bytes'] / 1e9:.2f}")
    console.print(memory)
    if "fits" in answer:
        budget = answer["gpu_memory_bytes"] / 1e9
        verdict = "fits" if answer["fits"] else "does not fit"
        largest = answer["largest_batch"]
        console.print(
            f"{verdict} into {budget:.1f} GB; "
            + (f"the largest batch that fits is {largest}" if largest else "no batch does")
        )
