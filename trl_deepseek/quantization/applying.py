"""What the trainers call: the base model quantized and the LoRA on it, on the way into TRL."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import ConfigError
from trl_deepseek.quantization.choosing import choose, compute_dtype
from trl_deepseek.quantization.loading import load
from trl_deepseek.registry import Registry
from trl_deepseek.types import Quantization

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from transformers import PretrainedConfig, PreTrainedModel

DEFAULT_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")


def check(
    model: str | PreTrainedModel, args: Any, options: Mapping[str, Any], registry: Registry
) -> None:
    """Refuse what :func:`apply` would, before a model is loaded.

    Args:
        model: What the trainer was given.
        args: The config.
        options: The trainer's other keyword arguments, ``peft_config`` among them.
        registry: Where the name is looked up.

    Raises:
        UserError: The name is unknown, it is given beside a ``quantization_config``, or LoRA does
            not fit the model.
    """
    from trl_deepseek import models
    from trl_deepseek.adapters import lora

    chosen = choose(args, registry)
    if chosen is None:
        return
    if options.get("quantization_config") is not None:
        raise ConfigError(
            "both quantization and quantization_config are given\n"
            "  leave one out; a plugin can register your BitsAndBytesConfig as a Quantization"
        )
    if options.get("peft_config") is None and isinstance(model, str):
        revision = (getattr(args, "model_init_kwargs", None) or {}).get("revision")
        trust = getattr(args, "trust_remote_code", False)
        shape = models.load_config(model, registry, revision, trust=trust)
        lora.adapter(chosen, shape, bool(getattr(args, "sequence_classification", False)))


def apply(
    model: str | PreTrainedModel, options: dict[str, Any], registry: Registry
) -> tuple[str | PreTrainedModel, dict[str, Any]]:
    """Load what ``options["args"].quantization`` asks for, on the way into a TRL constructor.

    Also picks the optimizer that the quantization names where a GPU is present. Without a
    ``quantization`` everything is returned as it came.

    Args:
        model: What the trainer was given.
        options: The constructor's keyword arguments; ``args`` is the config.
        registry: Where the name is looked up.

    Returns:
        The model and the keyword arguments that TRL takes.

    Raises:
        UserError: See :func:`choose`, :func:`load` and :func:`trl_deepseek.adapters.lora.adapter`.
    """
    import torch
    from accelerate import PartialState
    from transformers import set_seed

    from trl_deepseek import models
    from trl_deepseek.adapters import lora

    args = options.get("args")
    chosen = choose(args, registry)
    if args is None or chosen is None:
        return model, options
    scores = bool(getattr(args, "sequence_classification", False))
    loading = dict(args.model_init_kwargs or {})
    dtype = _dtype(loading.pop("dtype", None)) or compute_dtype(chosen, args)
    if isinstance(model, str):
        trust = getattr(args, "trust_remote_code", False)
        config = models.load_config(model, registry, loading.get("revision"), trust=trust)
    else:
        config = model.config
    adapter = options.get("peft_config") or lora.adapter(chosen, config, scores)
    set_seed(args.seed)  # the head of a reward model is random
    model = load(model, chosen, dtype, sequence_classification=scores, **loading)
    args.model_init_kwargs = None  # used up; TRL would warn that it ignores them
    if chosen.optimizer and torch.cuda.is_available() and args.optim in DEFAULT_OPTIMIZERS:
        args.optim = chosen.optimizer
    if PartialState().is_main_process:
        print(describe(args.quantization, chosen, dtype, adapter, config), file=sys.stderr)
    return model, {**options, "peft_config": adapter, "quantization_config": None}


def describe(
    name: str,
    quantization: Quantization,
    dtype: torch.dtype,
    adapter: PeftConfig,
    config: PretrainedConfig,
) -> str:
    """Two lines for people: how the base is held and what LoRA adapts."""
    from trl_deepseek.adapters import lora

    unit = str(dtype).removeprefix("torch.")
    parts = [f"weights in {unit}"]
    if quantization.bits:
        kind = quantization.quant_type if quantization.bits == 4 else "int8"
        double = ", double quantization" * (quantization.bits == 4 and quantization.double_quant)
        parts = [f"weights in {kind}{double}", f"compute in {unit}"]
        if lora.has_experts(config):
            packed = quantization.bits == 4 and quantization.quantize_experts
            parts.append(f"routed experts in {kind if packed else unit}")
    targets = getattr(adapter, "target_modules", None)
    named = targets if isinstance(targets, str) else ", ".join(sorted(targets or ()))
    experts = " and the routed experts" * quantization.lora_experts
    rank, alpha = getattr(adapter, "r", "?"), getattr(adapter, "lora_alpha", "?")
    return (
        f"quantization {name}: {'; '.join(parts)}\n"
        f"LoRA, rank {rank}, alpha {alpha}, on {named or 'no linear layers'}{experts}"
    )


def _dtype(given: Any) -> torch.dtype | None:
    """The dtype that ``model_init_kwargs`` names; None where it leaves the choice."""
    import torch

    if given in (None, "auto"):
        return None
    dtype: torch.dtype = getattr(torch, given) if isinstance(given, str) else given
    return dtype
