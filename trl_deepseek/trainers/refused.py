"""What TRL's constructors refuse once the model is loaded, refused before: no weights are needed.

The words that TRL has for it are kept where there are such, since people look for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trl_deepseek import data
from trl_deepseek.errors import ConfigError, DataError

PICTURES = frozenset({"image", "images"})


def check(model: Any, args: Any, options: Mapping[str, Any], *, adapter: bool) -> None:
    """Refuse options that do not go together.

    Args:
        model: A name, or a model in memory.
        args: The config.
        options: Of TRL's constructor, such as ``peft_config``.
        adapter: Whether an adapter is trained.

    Raises:
        ConfigError: Options contradict each other.
    """
    _check_quantized_once(model, args, options)
    _check_adapted_once(model, options)
    _check_reference(args, adapter)
    if (
        getattr(args, "loss_type", None) == "vespo"
        and getattr(args, "use_vllm", False)
        and args.vllm_importance_sampling_correction
        and args.vllm_importance_sampling_mode.startswith("sequence")
    ):
        raise ConfigError(
            "loss_type vespo weighs tokens: vllm_importance_sampling_mode must be token_truncate "
            f"or token_mask, not {args.vllm_importance_sampling_mode}"
        )
    liger = args.liger_kernel_config if args.use_liger_kernel else None
    if (liger or {}).get("fused_linear_cross_entropy"):
        raise ConfigError(
            "liger_kernel_config: fused_linear_cross_entropy replaces the forward pass whose head "
            "is fused already\n  leave it out"
        )


def check_rows(dataset: Any, split: str, args: Any, tokenizer: Any) -> None:
    """Refuse rows that do not go with the options or the model.

    Args:
        dataset: One dataset; None where there is none.
        split: Its name.
        args: The config.
        tokenizer: Or a processor, which a model that sees has.

    Raises:
        ConfigError: The log-probs of a stream's rows are to be precomputed.
        DataError: There are pictures, and the model reads text.
    """
    if dataset is None:
        return
    if not hasattr(dataset, "__len__") and getattr(args, "precompute_ref_log_probs", False):
        raise ConfigError(
            f"precompute_ref_log_probs is not supported with IterableDataset, and {split} is one: "
            "log-probs are kept by the number of the row\n"
            "  leave precompute_ref_log_probs out, or read the rows whole"
        )
    pictures = PICTURES.intersection(getattr(dataset, "column_names", None) or ())
    if pictures and not hasattr(tokenizer, "image_processor"):
        raise DataError(
            f"{data.source_of(dataset, split)} appears to be vision-related (it has a column "
            f"{min(pictures)!r}), and the model is no vision-language model\n"
            "  take the column out, or name a model that sees"
        )


def _check_quantized_once(model: Any, args: Any, options: Mapping[str, Any]) -> None:
    if options.get("quantization_config") is None:
        return
    if not isinstance(model, str):
        raise ConfigError(
            "quantization_config: the model is in memory, where it cannot be quantized\n"
            "  name the model, or leave quantization_config out"
        )
    if "quantization_config" in (args.model_init_kwargs or {}):
        raise ConfigError(
            "quantization_config is given twice, also in model_init_kwargs: leave one of them out"
        )


def _check_adapted_once(model: Any, options: Mapping[str, Any]) -> None:
    given = options.get("peft_config")
    if given is None:
        return
    from peft import PeftConfig, PeftModel

    if not isinstance(given, PeftConfig):
        raise ConfigError(
            f"peft_config is a {type(given).__name__}: it must be a peft.PeftConfig, such as "
            "peft.LoraConfig"
        )
    if isinstance(model, PeftModel):
        raise ConfigError(
            "peft_config: the model in memory carries an adapter already\n"
            "  leave peft_config out to train that one, or merge it first: "
            "model.merge_and_unload()"
        )


def _check_reference(args: Any, adapter: bool) -> None:
    if not getattr(args, "sync_ref_model", False):
        return
    if args.beta == 0:
        raise ConfigError(
            "sync_ref_model: with beta 0 there is no reference model to be replaced\n"
            "  add --sync_ref_model false, or set beta"
        )
    if getattr(args, "precompute_ref_log_probs", False):
        raise ConfigError(
            "sync_ref_model: the reference's log-probs are precomputed, and would stay those of "
            "the first reference\n  leave out sync_ref_model or precompute_ref_log_probs"
        )
    if adapter:
        raise ConfigError(
            "sync_ref_model: under LoRA the reference is the base model, which is not replaced\n"
            "  add --sync_ref_model false, or train all weights"
        )
