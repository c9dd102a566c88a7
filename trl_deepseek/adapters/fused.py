"""LoRA's second product added to what its base layer gives as it is formed.

peft forms ``base(x) + B(A(x)) * scaling`` in three steps over the layer's output, a product, a
multiplication and an addition, and the backward pass multiplies once more. One call of ``addmm``
does all three, with one rounding in place of three. benchmarks/RESULTS.md has what that is worth.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


class FusedLinear(Linear):
    """peft's adapted linear layer, whose forward is one step where it is plain LoRA.

    Whatever else the layer can be (merged, switched off, several adapters at once, DoRA, adapters
    with a bias) goes peft's way, as does everything but the forward pass.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """``base(x) + scaling * B(A(x))``, (..., out), of ``x`` (..., in)."""
        adapter = None if args or kwargs or x.dim() < 2 else self._plain_adapter()
        if adapter is None or x.dtype != self.lora_A[adapter].weight.dtype:
            whole: Tensor = super().forward(x, *args, **kwargs)
            return whole
        result = self.base_layer(x)
        low = self.lora_A[adapter](self.lora_dropout[adapter](x))
        up = self.lora_B[adapter].weight.to(low.dtype)  # as autocast does
        # Laid out as it is multiplied: of a transposed one a CPU takes up to ten times as long for
        # the gradient, since torch then forms that transposed, from columns of the output's.
        up = up.t().contiguous()
        flat = result.flatten(0, -2), low.flatten(0, -2)
        return torch.addmm(*flat, up, alpha=self.scaling[adapter]).view(result.shape)

    def _plain_adapter(self) -> str | None:
        """The adapter, if there is one and its layers are plain; else None."""
        if self.disable_adapters or self.merged:
            return None
        active = [each for each in self.active_adapters if each in self.lora_A]
        if len(active) != 1 or active[0] in self.lora_variant:
            return None
        up = self.lora_B[active[0]]
        # sharded weights are put together by hooks on the call of their layer, and B is not called
        called = up._forward_pre_hooks or up._forward_hooks
        plain = type(up) is nn.Linear and up.bias is None and not called
        same = type(self.base_layer).forward is nn.Linear.forward  # quantized: another dtype
        return active[0] if plain and same else None


KINDS = (Linear, FusedLinear)
"""Layers of plain weights with LoRA on them, however they add."""


def fuse(model: nn.Module, fused: bool = True) -> None:
    """Let plain LoRA layers of peft's add as they multiply, or, not ``fused``, as peft does.

    Args:
        model: Perhaps wrapped; what it has that is no such layer stays as it is.
        fused: Which of the two.
    """
    for module in model.modules():
        if type(module) in KINDS:
            module.__class__ = KINDS[fused]
