"""A model held in 4, 8 or 16 bits, ready for an adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import ConfigError, ModelError
from trl_deepseek.quantization.choosing import bitsandbytes_config
from trl_deepseek.types import Quantization

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


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


def hold_trained_in_float32(model: torch.nn.Module) -> None:
    """Raise what is trained to float32, the only gradients that float16's loss scaler unscales.

    TRL holds the adapters of a quantized model in bfloat16, whatever the precision of the run.
    """
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def _in_two_dimensions(forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
    """Feed (B, T, H) as (B * T, H): bitsandbytes' 8-bit kernel for CPU takes matrices only."""

    def call(x: torch.Tensor) -> torch.Tensor:
        return forward(x.reshape(-1, x.shape[-1])).unflatten(0, x.shape[:-1])

    return call


def _as_input(_module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    return output.to(inputs[0].dtype)


def _four_bit(quantization: Quantization) -> contextlib.AbstractContextManager[None]:
    if quantization.bits == 4:
        from trl_deepseek.quantization.four_bit import quantizing

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
