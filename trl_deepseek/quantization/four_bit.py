"""transformers' 4-bit quantizer, completed: routed experts, and rows that do not fill a block.

DeepSeek-V2 and V3 keep their routed experts, nine tenths of their weights, as 3-D parameters.
transformers hands only linear layers to bitsandbytes, so ``load_in_4bit`` leaves the experts in 16
bit. Here each expert parameter is quantized as soon as it is read, so that the 16-bit experts never
lie in memory together, and is dequantized when its layer runs (``bitsandbytes.nn.parametrize``).

On CPU, bitsandbytes dequantizes a weight wrongly where the row length is no multiple of the block
(64 values): the error is two and a half times that of NF4. Such weights get blocks of 32, and stay
in 16 bit where that does not divide the row either.

A checkpoint saved with :func:`save` holds the 4-bit weights and is read back in :func:`quantizing`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bitsandbytes as bnb
import torch
from bitsandbytes.nn import parametrize
from transformers.core_model_loading import ConversionOps, WeightConverter
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

from trl_deepseek.adapters.lora import EXPERTS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STATE_SUFFIXES = (
    "nested_absmax",
    "nested_quant_map",
    "quant_map",
    "absmax",
    "quant_state.bitsandbytes__nf4",
    "quant_state.bitsandbytes__fp4",
)


def is_expert(name: str) -> bool:
    """Whether a parameter of this name holds all routed experts of a layer."""
    return name.endswith(EXPERTS)


def block_size(row: int) -> int | None:
    """Values that share one constant, for rows of this length; None where no size fits."""
    return next((size for size in (64, 32) if row % size == 0), None)


class Quantizer(Bnb4BitHfQuantizer):
    """The quantizer that stands in for transformers' own within :func:`quantizing`."""

    def __init__(self, *args: Any, experts: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.experts = experts
        self.states: dict[str, dict[str, Any]] = {}  # parameter name -> serialized quant state

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **_: Any) -> bool:
        """As transformers': also lets the packed shape of an expert pass its shape check."""
        if is_expert(param_name):
            fits = self.experts and block_size(model.get_parameter(param_name).shape[-1])
            return self.pre_quantized or bool(fits)
        return super().param_needs_quantization(model, param_name)

    def get_modules_to_not_convert(self, model: PreTrainedModel, *args: Any) -> list[str]:
        """As transformers', and the layers whose rows fit no block."""
        odd = [
            name
            for name, module in model.named_modules()
            if type(module) is torch.nn.Linear and block_size(module.in_features) is None
        ]
        return [*super().get_modules_to_not_convert(model, *args), *odd]

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        super()._process_model_before_weight_loading(model, **kwargs)
        for module in model.modules():
            if isinstance(module, bnb.nn.Linear4bit):
                module.weight.blocksize = block_size(module.in_features)

    def get_quantize_ops(self) -> ConversionOps:
        """What is run on each tensor that needs quantization."""
        return _Quantize(self, super().get_quantize_ops())

    def get_weight_conversions(self) -> list[WeightConverter]:
        """How a 4-bit checkpoint is read."""
        conversions = super().get_weight_conversions()
        if self.pre_quantized:
            for name in EXPERTS:
                # the bare name last: before 5.22 the first that a key begins with takes it
                sources = [*(f"{name}.{suffix}" for suffix in STATE_SUFFIXES), name]
                conversions.append(WeightConverter(sources, name, [_Deserialize(self)]))
        return conversions

    def _process_model_after_weight_loading(
        self, model: PreTrainedModel, **kwargs: Any
    ) -> PreTrainedModel:
        for full_name, state in self.states.items():
            path, _, name = full_name.rpartition(".")
            module = model.get_submodule(path)
            device = getattr(module, name).device
            parametrize.replace_parameter_4bit_prequantized(module, name, state, device)
        return super()._process_model_after_weight_loading(model, **kwargs)


class _Quantize(ConversionOps):
    """Quantize experts here and leave everything else to transformers."""

    def __init__(self, quantizer: Quantizer, linear: ConversionOps) -> None:
        self.hf_quantizer = quantizer
        self.linear = linear

    def convert(
        self, input_dict: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        result = {}
        config = self.hf_quantizer.quantization_config
        for name, value in input_dict.items():
            if not is_expert(name):
                result.update(self.linear.convert({name: value}, *args, **kwargs))
                continue
            weights = value[0] if isinstance(value, list) else value  # (experts, out, in)
            packed, state = bnb.functional.quantize_4bit(
                weights.contiguous(),
                blocksize=block_size(weights.shape[-1]),
                compress_statistics=config.bnb_4bit_use_double_quant,
                quant_type=config.bnb_4bit_quant_type,
            )
            self.hf_quantizer.states[name] = state.as_dict(packed=True)
            result[name] = torch.nn.Parameter(packed, requires_grad=False)
        return result


class _Deserialize(ConversionOps):
    """Take an expert parameter and its quant state out of a 4-bit checkpoint."""

    def __init__(self, quantizer: Quantizer) -> None:
        self.hf_quantizer = quantizer

    def __deepcopy__(self, memo: dict[int, Any]) -> _Deserialize:
        return self  # transformers copies a converter per parameter; the quantizer is to be shared

    def convert(
        self, input_dict: dict[str, Any], full_layer_name: str, **_: Any
    ) -> dict[str, torch.Tensor]:
        tensors = {k: v[0] if isinstance(v, list) else v for k, v in input_dict.items()}
        weight_key = next(key for key in tensors if key.endswith(EXPERTS))
        packed = tensors.pop(weight_key)
        if tensors:  # else the checkpoint keeps these experts in 16 bit
            short = weight_key.rpartition(".")[2]
            self.hf_quantizer.states[full_layer_name] = {
                key[key.index(f"{short}.") + len(short) + 1 :]: value
                for key, value in tensors.items()
            }
        return {weight_key: torch.nn.Parameter(packed, requires_grad=False)}


@contextlib.contextmanager
def quantizing(experts: bool = True) -> Iterator[None]:
    """Within it, ``from_pretrained`` uses the quantizer above for 4-bit models.

    Args:
        experts: Whether routed experts are quantized; those saved in 4 bits are read as such.

    transformers looks its quantizer up in a table by the method's name. A method of our own would
    be a permanent entry there and would make saved configs unreadable without this package.
    """
    stock = AUTO_QUANTIZER_MAPPING["bitsandbytes_4bit"]
    AUTO_QUANTIZER_MAPPING["bitsandbytes_4bit"] = functools.partial(Quantizer, experts=experts)
    try:
        yield
    finally:
        AUTO_QUANTIZER_MAPPING["bitsandbytes_4bit"] = stock


def save(model: PreTrainedModel, folder: str | Path) -> None:
    """Save a model with its weights in 4 bits, experts included, as safetensors.

    ``save_pretrained`` alone would try to split the packed experts into one matrix per expert.
    """
    model.save_pretrained(folder, save_original_format=False)
