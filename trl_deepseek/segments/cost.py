"""Whether laying out a batch as a forest is faster: a rule in multiply-adds, no clock.

A clock would let two runs with the same seed choose differently, and then differ in the last bit.
Three things are counted: what every token costs in the linear layers, what every pair of tokens
costs in attention (per multiply-add more than a linear layer), and what a call costs in itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from trl_deepseek.lm_head import unwrap
from trl_deepseek.segments.layout import Layout

ATTENTION = {"sdpa": 2.0, "eager": 4.0}
"""What a multiply-add in attention costs, in those of a linear layer; measured on a CPU."""

CALL = {"cpu": 4e6, "accelerator": 4e8}
"""What one more call of attention costs, in multiply-adds of a linear layer."""

BACKWARD = 1.5
"""What a backward pass costs, in forward passes: 1 where the weights are frozen, 2 where not."""

WORTH = 0.9
"""A layout is taken where it costs at most this share of the batch as it is: what the rule does not
see must not make it slower."""


@dataclass(frozen=True)
class Costs:
    """Of one model, in multiply-adds of its linear layers.

    Attributes:
        token: Of one token in all layers.
        pair: Of one pair of a query and a key in all layers.
        call: Of one call of attention in each layer.
        by_segments: Whether attention goes by segments; else it forms every score of a row.
    """

    token: float
    pair: float
    call: float
    by_segments: bool

    @property
    def triangle(self) -> float:
        """Share of a causal square that attention computes."""
        return 0.5 if self.by_segments else 1.0

    def padded(self, real: Tensor) -> float:
        """Of rows as they are, told which tokens are no padding, (B, T) bool."""
        rows, width = real.shape
        seen = self.triangle if bool(real.all()) else 1.0
        return rows * (width * self.token + seen * width**2 * self.pair) + self.call

    def laid_out(self, layout: Layout) -> float:
        """Of a forest."""
        rows, width = layout.input_ids.shape
        linear = rows * width * self.token
        if not self.by_segments:
            return linear + rows * width**2 * self.pair + self.call
        area = calls = 0.0
        for row in layout.spans:
            for span in row:
                before = sum(row[each].length for each in span.context)
                own = 1.0 if before else self.triangle
                area += span.length * (before + own * span.length)
                calls += 1
        return linear + area * self.pair + calls * self.call


def costs(model: nn.Module) -> Costs:
    """Of one model, from its weights and config."""
    inner = unwrap(model)
    config = inner.config.get_text_config()
    layers = config.num_hidden_layers
    kind = config._attn_implementation
    head = _head_size(config)
    device = next(model.parameters()).device.type
    return Costs(
        token=_weights_per_token(inner, config),
        pair=2 * layers * config.num_attention_heads * head * ATTENTION.get(kind, 1.0),
        call=layers * CALL["cpu" if device == "cpu" else "accelerator"],
        by_segments=kind == "sdpa",
    )


def _head_size(config: Any) -> int:
    if getattr(config, "qk_nope_head_dim", None):
        size: int = config.qk_nope_head_dim + config.qk_rope_head_dim
        return size
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _weights_per_token(model: Any, config: Any) -> float:
    """Weights that one token meets in the layers; of routed experts those that it goes to."""
    experts = getattr(config, "n_routed_experts", None) or getattr(config, "num_experts", None)
    chosen = getattr(config, "num_experts_per_tok", None) or 1
    ends = (model.get_input_embeddings(), getattr(model, "lm_head", None))
    outside = {id(p) for each in ends if each is not None for p in each.parameters()}
    total = 0.0
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or id(parameter) in outside:
            continue
        share = chosen / experts if experts and ".experts." in name else 1.0
        total += share * _numel(parameter)
    return total


def _numel(parameter: Tensor) -> int:
    packed = getattr(parameter, "quant_state", None)
    shape = getattr(packed, "shape", None)
    return shape.numel() if shape is not None else parameter.numel()
