"""The flags ``--qlora``, ``--quantization``, ``--use_peft`` and ``--lora_*`` of training."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from trl_deepseek import models, quantization
from trl_deepseek.adapters import lora
from trl_deepseek.errors import ConfigError
from trl_deepseek.registry import Registry
from trl_deepseek.types import Quantization

if TYPE_CHECKING:
    from peft import PeftConfig

# TRL's flag -> the keyword of peft.LoraConfig that it sets.
LORA_FLAGS = {
    "lora_r": "r",
    "lora_alpha": "lora_alpha",
    "lora_dropout": "lora_dropout",
    "lora_target_modules": "target_modules",
    "lora_target_parameters": "target_parameters",
    "lora_modules_to_save": "modules_to_save",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}


def settled(options: argparse.Namespace) -> argparse.Namespace:
    """A copy of the options in which these flags agree, before configs are built from them.

    ``--use_peft`` also means weight decay 0.01 and 3 % warm-up, unless they are given.

    Raises:
        ConfigError: Two of them name different ways to hold the model.
    """
    options = argparse.Namespace(**vars(options))
    if options.qlora:
        if options.quantization not in (None, "qlora"):
            raise ConfigError(
                f"--qlora and --quantization {options.quantization} contradict each other: "
                "leave one out"
            )
        options.quantization = "qlora"
    if options.quantization is not None:
        for flag in ("load_in_4bit", "load_in_8bit"):
            if getattr(options, flag):
                raise ConfigError(
                    f"--{flag} and --quantization {options.quantization} both say how the model "
                    "is held: leave one out"
                )
        options.use_peft = True
        if "dtype" not in options.given:
            options.dtype = None  # TRL's default, float32, is not meant for a quantized model
    elif options.lora_experts:
        raise ConfigError("--lora_experts needs --quantization, such as --quantization lora")
    if not options.use_peft:
        given = [flag for flag in LORA_FLAGS if flag in options.given and getattr(options, flag)]
        if given:
            raise ConfigError(
                f"{', '.join(f'--{flag}' for flag in given)} without an adapter: all weights would "
                "be trained\n  add --use_peft for LoRA, or --qlora; or leave "
                f"{'it' if len(given) == 1 else 'them'} out"
            )
    else:
        for option, value in (("weight_decay", 0.01), ("warmup_steps", 0.03)):
            if option not in options.given:
                setattr(options, option, value)
    return options


def stock_quantization(options: Any) -> Quantization | None:
    """TRL's own quantization flags in our terms; None without them."""
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


def adapter(args: argparse.Namespace, config: Any, options: Any, registry: Registry) -> Any:
    """The LoRA that the flags describe, checked against the model's skeleton; None without one.

    Args:
        args: The parsed flags.
        config: The training config built from them.
        options: TRL's ``ModelConfig`` built from them.
        registry: Where quantizations and embedded models are looked up.

    Raises:
        UserError: A name is unknown, or a target does not fit the model.
    """
    chosen = quantization.choose(config, registry)
    if chosen is None and not options.use_peft:
        return None
    shape = models.load_config(
        options.model_name_or_path,
        registry,
        options.model_revision,
        trust=config.trust_remote_code,
    )
    if chosen is None:
        return lora.lora_config(options, shape)
    given = {
        keyword: getattr(options, flag)
        for flag, keyword in LORA_FLAGS.items()
        if flag in args.given
    }
    result: PeftConfig = lora.adapter(chosen, shape, config.sequence_classification, **given)
    return result
