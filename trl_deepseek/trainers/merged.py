"""LoRA inside the weights while completions are sampled, and the weights afterwards as they were.

One product in place of three per adapted layer. Adding and taking away again would leave the
weights a rounding off, so the sum stands beside them. Only weights in float32 are merged: in 16
bits the sum would be rounded, and what is sampled would not be what is trained.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from trl_deepseek.adapters import fused


@contextlib.contextmanager
def merged(model: nn.Module) -> Iterator[bool]:
    """Within it, the active adapters are part of the weights; yields whether they are.

    Costs the memory of the adapted weights meanwhile. Where an adapter is other than plain LoRA on
    linear layers in float32, or its weight is another layer's too (a head tied to the embeddings),
    nothing is merged.
    """
    layers = [each for each in model.modules() if isinstance(each, BaseTunerLayer)]
    if not layers or not all(_plain(each) for each in layers) or _tied(model, layers):
        yield False
        return
    aside = []
    try:
        for each in layers:
            weight = each.get_base_layer().weight
            aside.append(weight.data)
            with torch.no_grad():
                for name in _active(each):
                    weight.data = weight.data + each.get_delta_weight(name)
                    each.merged_adapters.append(name)
        yield True
    finally:
        for each, before in zip(layers, aside, strict=False):
            each.get_base_layer().weight.data = before
            each.merged_adapters.clear()


def _active(layer: Any) -> list[str]:
    return [name for name in layer.active_adapters if name in layer.lora_A]


def _tied(model: nn.Module, layers: list[Any]) -> bool:
    """Whether a layer shares its weight with any other module."""
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    return any(owners[id(layer.get_base_layer().weight)] > 1 for layer in layers)


def _plain(layer: Any) -> bool:
    if (
        type(layer) not in fused.KINDS
        or layer.merged
        or layer.disable_adapters
        or layer.lora_variant
    ):
        return False
    base = layer.get_base_layer()
    biased = any(layer.lora_bias.get(name) for name in _active(layer))
    return type(base) is nn.Linear and base.weight.dtype == torch.float32 and not biased
