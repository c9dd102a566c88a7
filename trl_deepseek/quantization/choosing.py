"""A registered quantization by name, and what it means for dtypes and bitsandbytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trl_deepseek.adapters.lora import HEADS, ROUTER
from trl_deepseek.errors import ConfigError
from trl_deepseek.registry import Registry
from trl_deepseek.types import Quantization

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

# Never quantized: the LM head, whose weight TRL reads directly, the head of a reward model, and
# routers, which are linear layers in DeepSeek-V2 before transformers 5.13.
SKIPPED = [*HEADS, ROUTER]


def choose(args: Any, registry: Registry) -> Quantization | None:
    """The quantization that a config names, with its ``lora_experts`` applied; None for none.

    Raises:
        UnknownName: No plugin registers it.
        ConfigError: LoRA on experts that are to be held in 4 bits, or without a quantization.
    """
    from dataclasses import replace

    name = getattr(args, "quantization", None)
    on_experts = bool(getattr(args, "lora_experts", False))
    if name is None:
        return None
    chosen = registry.quantizations[name]
    if not on_experts or chosen.lora_experts:
        return chosen
    if chosen.bits == 4 and chosen.quantize_experts:
        raise ConfigError(
            f"lora_experts: quantization {name!r} holds the routed experts in 4 bits, where peft "
            "finds no parameter to adapt\n"
            "  either adapt them in 16 bit: quantization 'qlora-lora-experts' or 'lora'\n"
            "  or keep them in 4 bits and leave lora_experts out"
        )
    return replace(chosen, lora_experts=True, lora={**chosen.lora, "lora_dropout": 0.0})


def compute_dtype(quantization: Quantization, args: Any) -> torch.dtype:
    """The dtype in which layers compute and unquantized weights are held."""
    import torch

    if quantization.compute_dtype != "auto":
        dtype: torch.dtype = getattr(torch, quantization.compute_dtype)
        return dtype
    if getattr(args, "fp16", False):
        return torch.float16
    return torch.bfloat16 if getattr(args, "bf16", False) else torch.float32


def bitsandbytes_config(
    quantization: Quantization, dtype: torch.dtype
) -> BitsAndBytesConfig | None:
    """What ``from_pretrained`` takes; None where nothing is quantized."""
    from transformers import BitsAndBytesConfig

    if quantization.bits is None:
        return None
    if quantization.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=SKIPPED)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.quant_type,
        bnb_4bit_use_double_quant=quantization.double_quant,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=SKIPPED,
    )
