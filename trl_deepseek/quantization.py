"""One name -> the base model in 4, 8 or 16 bits, ready for an adapter, and the LoRA on it.

``apply`` is all that the trainers call. The steps, each of which may be used alone: ``choose`` the
registered item, find the ``compute_dtype``, ``load`` (or convert) the model, ``prepare`` it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import ConfigError, ModelError
from trl_deepseek.registry import Registry
from trl_deepseek.types import Quantization

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

# Never quantized: the LM head, whose weight TRL reads directly, and the head of a reward model.
SKIPPED = ["lm_head", "score"]
DEFAULT_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused")


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


def load(
    model: str | PreTrainedModel,
    quantization: Quantization,
    dtype: torch.dtype,
    *,
    sequence_classification: bool = False,
    **kwargs: Any,
) -> PreTrainedModel:
    """The model called ``model``, or a given one converted, held as ``quantization`` says.

    Args:
        model: A folder, a hub id, or a model in memory, whose weights are read, not changed.
        quantization: How to hold it.
        dtype: Of what is not quantized, and of the computation.
        sequence_classification: Whether to load a folder or hub id as a reward model.
        **kwargs: Passed to ``from_pretrained``.

    Raises:
        ModelError: The checkpoint is quantized in another way, or the model does not load.
    """
    import transformers
    from accelerate import PartialState

    settings = bitsandbytes_config(quantization, dtype)
    if settings is not None:
        kwargs["device_map"] = kwargs.get("device_map") or {"": PartialState().device}
        if not (isinstance(model, str) and _stored_quantization(model, kwargs.get("revision"))):
            kwargs["quantization_config"] = settings
    if isinstance(model, str):
        name = "SequenceClassification" if sequence_classification else "CausalLM"
        loader: Any = getattr(transformers, f"AutoModelFor{name}")
        source: dict[str, Any] = {"pretrained_model_name_or_path": model}
        if sequence_classification:
            kwargs["num_labels"] = 1
    else:
        _refuse_quantized(model)
        loader = type(model)
        source = {
            "pretrained_model_name_or_path": None,  # transformers then takes the state_dict
            "config": model.config,
            "state_dict": model.state_dict(),
        }
    with _four_bit(quantization):
        try:
            loaded: PreTrainedModel = loader.from_pretrained(**source, dtype=dtype, **kwargs)
        except (OSError, ValueError) as error:
            named = repr(model) if isinstance(model, str) else "in memory"
            raise ModelError(f"model {named} does not load: {error}") from error
    if not isinstance(model, str):
        loaded.config._name_or_path = model.config._name_or_path
        if hasattr(model, "generation_config"):  # a reward model has none
            loaded.generation_config = model.generation_config
    return prepare(loaded)


def _stored_quantization(name: str, revision: str | None) -> str | None:
    """How the checkpoint itself is quantized; only bitsandbytes can be trained on.

    Raises:
        ModelError: It is quantized in another way, such as the 8-bit floats of DeepSeek-V3.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name, revision=revision)
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return None
    method = stored["quant_method"] if isinstance(stored, dict) else stored.quant_method
    if method != "bitsandbytes":
        raise ModelError(
            f"model {name!r} is stored in {method}, on which no adapter can be trained here\n"
            "  convert it to bfloat16 first, and name the folder it is converted to"
        )
    return str(method)


def prepare(model: PreTrainedModel) -> PreTrainedModel:
    """Make a quantized model fit to train on: norms in float32, no lossy repacking on CPU.

    A norm's result is cast back to the dtype that came in, so that the rest of the model, the LM
    head included, stays in 16 bit (``peft.prepare_model_for_kbit_training`` raises all of it to 32
    bit). Input gradients and gradient checkpointing are TRL's own settings and left to it.
    """
    if not getattr(model, "is_quantized", False):
        return model
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes repacks a 4-bit weight for CPU inference in place, rounding its
            # constants, and fails where a row is not a multiple of the block.
            module.support_avx512bf16_for_cpu = False
        if type(module).__name__ == "Linear8bitLt" and module.weight.device.type == "cpu":
            module.forward = _in_two_dimensions(module.forward)
    keep_norms_in_float32(model)
    return model


def keep_norms_in_float32(model: torch.nn.Module) -> None:
    """Hold and apply the weights of norms in float32; their results keep the input's dtype."""
    import torch

    for module in model.modules():
        if type(module).__name__.endswith("Norm"):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.float32)
            module.register_forward_hook(_as_input)


def _in_two_dimensions(forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """Feed (B, T, H) as (B * T, H): bitsandbytes' 8-bit kernel for CPU takes matrices only."""

    def call(x: torch.Tensor) -> torch.Tensor:
        return forward(x.reshape(-1, x.shape[-1])).unflatten(0, x.shape[:-1])

    return call


def _as_input(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    return output.to(inputs[0].dtype)


def _four_bit(quantization: Quantization) -> contextlib.AbstractContextManager[None]:
    if quantization.bits == 4:
        from trl_deepseek.four_bit import quantizing

        return quantizing(quantization.quantize_experts)
    return contextlib.nullcontext()


def _refuse_quantized(model: PreTrainedModel) -> None:
    has_adapter = hasattr(model, "peft_config")
    if has_adapter or getattr(model, "is_quantized", False):
        state = "carries an adapter" if has_adapter else "is quantized"
        raise ConfigError(
            f"quantization: the model given {state} already\n"
            "  leave quantization out, or give the model's name and let it be loaded"
        )


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
        UserError: See :func:`choose`, :func:`load` and :func:`trl_deepseek.lora.adapter`.
    """
    import torch
    from accelerate import PartialState
    from transformers import set_seed

    from trl_deepseek import lora, models

    args = options.get("args")
    chosen = choose(args, registry)
    if args is None or chosen is None:
        return model, options
    if options.get("quantization_config") is not None:
        raise ConfigError(
            "both quantization and quantization_config are given\n"
            "  leave one out; a plugin can register your BitsAndBytesConfig as a Quantization"
        )
    scores = bool(getattr(args, "sequence_classification", False))
    loading = dict(args.model_init_kwargs or {})
    dtype = _dtype(loading.pop("dtype", None)) or compute_dtype(chosen, args)
    if isinstance(model, str):
        config = models.load_config(model, registry, loading.get("revision"))
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
    from trl_deepseek import lora

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
