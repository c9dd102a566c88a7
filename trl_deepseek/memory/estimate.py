"""Bytes of a training run by what holds them: weights, adapters, gradients, optimizer, activations.

Weights, gradients and optimizer states are counted from shapes and formats; activations and the LM
head are found by a rehearsal on tensors without data. Nothing here needs the model's weights.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trl_deepseek.adapters.lora import EXPERTS, HEADS, ROUTER
from trl_deepseek.memory.rehearsal import Rehearsed, Step, assemble, rehearse

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn
    from transformers import PretrainedConfig

    from trl_deepseek.types import Quantization

GROUPS = (  # in the order of the model; the first whose mark is in a parameter's name
    ("embeddings", ("embed_tokens",)),
    ("attention", ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o")),
    ("routed experts", ("mlp.experts",)),
    ("shared experts", ("mlp.shared_experts",)),
    ("router", ("mlp.gate.",)),
    ("dense MLP", ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")),
    ("norms", ("norm",)),
    ("head", HEADS),
)
EIGHT_BIT_BLOCK = 256  # values per constant of bitsandbytes' 8-bit optimizer states
EIGHT_BIT_MINIMUM = 4096  # smaller tensors keep their states in float32


@dataclass(frozen=True)
class Group:
    """Parameters of one kind; ``trainable`` counts adapters on it, or all of it."""

    name: str
    parameters: int
    trainable: int


@dataclass(frozen=True)
class Estimate:
    """The answer; all sizes in bytes.

    Attributes:
        groups: Parameters by kind.
        weights: Of the base model, as held.
        reference: Of a second, frozen model that a loss compares with; 0 for none.
        adapters: LoRA and whatever else is trained beside a frozen base.
        gradients: Of what is trained.
        optimizer: States of the optimizer.
        activations: Peak in the backbone of what autograd holds and kernels need.
        head: What the LM head adds to that.
        peak: The most that is alive at one time. Less than the sum where gradients arrive as
            activations go.
    """

    groups: tuple[Group, ...]
    weights: int
    reference: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    head: int
    peak: int

    @property
    def parameters(self) -> int:
        """Parameters of the base model."""
        return sum(group.parameters for group in self.groups)

    @property
    def trainable(self) -> int:
        """Parameters that are trained."""
        return sum(group.trainable for group in self.groups)

    @property
    def held(self) -> int:
        """What lies in memory between steps."""
        return self.weights + self.reference + self.adapters + self.optimizer

    @property
    def sum(self) -> int:
        """All rows added up, as if all were alive at one time."""
        return self.held + self.gradients + self.activations + self.head


def estimate(
    config: PretrainedConfig,
    step: Step,
    *,
    quantization: Quantization | None = None,
    adapter: PeftConfig | None = None,
    optimizer: str = "adamw_torch_fused",
    accumulates: bool = False,
    holds_reference: bool = False,
) -> Estimate:
    """The memory of a run.

    Args:
        config: Of the base model.
        step: The shape of one forward and backward pass.
        quantization: How the base is held; None for ``step.dtype``.
        adapter: What is trained beside a frozen base; None where all of it is trained.
        optimizer: transformers' name of it.
        accumulates: Whether gradients of earlier passes are alive in the forward pass.
        holds_reference: Whether a second model is held; not where an adapter can be switched off.
    """
    model = assemble(config, step, quantization, copy.deepcopy(adapter))
    weights = sum(base_bytes(model, quantization).values())
    trained = [p for p in model.parameters() if p.requires_grad]
    trained_bytes = sum(p.nbytes for p in trained)
    states = states_bytes(model, optimizer)
    reference = weights if holds_reference and adapter is None else 0
    adapters = trained_bytes if adapter is not None else 0
    found = rehearse(config, step, quantization, adapter)
    return Estimate(
        groups=_groups(model),
        weights=weights,
        reference=reference,
        adapters=adapters,
        gradients=trained_bytes,
        optimizer=states,
        activations=found.activations,
        head=found.head,
        peak=weights + reference + adapters + states + busiest(found, trained_bytes, accumulates),
    )


def busiest(found: Rehearsed, gradients: int, accumulates: bool) -> int:
    """The most that a step adds to what is held: at its turning point, or at its end.

    In the backward pass activations go as gradients arrive, layer by layer, so the most is alive
    at one of its two ends.
    """
    turning = found.activations + found.head
    if accumulates:
        return turning + gradients
    return max(turning, gradients + found.layer)


def largest_batch(budget: int, peak: Callable[[int], int], limit: int = 4096) -> int:
    """The largest batch whose peak fits, 0 if not even one example does.

    Args:
        budget: Bytes.
        peak: From a batch to the bytes of its step; grows with it, and nearly in proportion.
        limit: Where to stop looking.
    """
    peak = functools.cache(peak)
    if peak(1) > budget:
        return 0
    low, high = 1, limit + 1  # what fits, and what does not or is not asked for
    guess = 2
    while high - low > 1:
        if peak(guess) <= budget:
            low = guess
        else:
            high = guess
        slope = max(1, (peak(guess) - peak(1)) // (guess - 1))
        guess = min(max(1 + (budget - peak(1)) // slope, low + 1), high - 1)
    return low


def base_bytes(model: nn.Module, quantization: Quantization | None) -> dict[str, int]:
    """Bytes of each parameter of the base model, in the format in which it is held."""
    from torch import nn

    linear = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith((*HEADS, ROUTER))
    }
    sizes = {}
    for name, parameter in model.named_parameters():
        if _is_added(name):
            continue
        size = parameter.nbytes
        if quantization is not None and quantization.bits == 8 and name in linear:
            size = parameter.numel() + 4 * parameter.shape[0]
        elif quantization is not None and quantization.bits == 4:
            packed = name in linear
            packed |= name.endswith(EXPERTS) and quantization.quantize_experts
            if packed:
                size = four_bit_bytes(
                    parameter.numel(), parameter.shape[-1], quantization.double_quant
                )
        sizes[name] = size
    return sizes


def four_bit_bytes(count: int, row: int, double_quant: bool) -> int:
    """Bytes of ``count`` values in 4 bits with the constants of their blocks.

    Source: arXiv:2305.14314, section 3. A constant is a float32, or with double quantization one
    byte and a float32 per 256 of them; each tensor also keeps its table of 16 values (and of 256).
    """
    block = 64 if row % 64 == 0 else 32
    blocks = -(-count // block)
    if not double_quant:
        return count // 2 + 4 * blocks + 4 * 16
    return count // 2 + blocks + 4 * -(-blocks // 256) + 4 * 16 + 4 * 256


def states_bytes(model: nn.Module, optimizer: str) -> int:
    """Bytes of the optimizer's states of all that is trained.

    transformers leaves the states of embeddings in 32 bits, also with an 8-bit optimizer.
    """
    from torch import nn

    whole = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    return sum(
        2 * 4 * numel(p)
        if "8bit" in optimizer and id(p) in whole
        else state_bytes(numel(p), p.element_size(), optimizer)
        for p in model.parameters()
        if p.requires_grad
    )


def numel(parameter: Any) -> int:
    """Values of a parameter, also of one that ZeRO has spread over processes."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def state_bytes(count: int, width: int, optimizer: str) -> int:
    """Bytes of the optimizer's states for a tensor of ``count`` values of ``width`` bytes.

    Two moments in the dtype of the parameter, or in 8 bits with a float32 per 256 values
    (arXiv:2110.02861). Optimizers without a known layout are counted as Adam.
    """
    if "sgd" in optimizer:
        return 0
    if "8bit" in optimizer:
        if count < EIGHT_BIT_MINIMUM:
            return 8 * count
        return 2 * (count + 4 * -(-count // EIGHT_BIT_BLOCK))
    return 2 * count * width


def _groups(model: nn.Module) -> tuple[Group, ...]:
    counts = {name: [0, 0] for name, _ in GROUPS}
    for name, parameter in model.named_parameters():
        group = next((g for g, marks in GROUPS if any(mark in name for mark in marks)), "norms")
        if not _is_added(name):
            counts[group][0] += parameter.numel()
        if parameter.requires_grad:
            counts[group][1] += parameter.numel()
    return tuple(Group(name, *pair) for name, pair in counts.items() if any(pair))


def _is_added(name: str) -> bool:
    """Whether peft put this parameter beside the base model's."""
    return "lora_" in name or ".modules_to_save." in name
