"""Parts that several policy losses are made of; for plugins to call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek.losses.checking import require_range
from trl_deepseek.policy_types import TokenLogps

if TYPE_CHECKING:
    from torch import Tensor


def clipped(
    tokens: TokenLogps,
    ratio: Tensor,
    epsilon: float,
    epsilon_high: float | None,
    delta: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped surrogate, in the shape of ``ratio``, and which of it was clipped.

    Formula: -min(ρ·A, clip(ρ, 1-ε, 1+ε_high)·A), where the first ρ is at most δ

    Source: arXiv:1707.06347, equation 7; δ is from arXiv:2505.07291 (INTELLECT-2).

    Raises:
        ValueError: An option is out of range.
    """
    import torch

    require_range("epsilon", epsilon, at_least=0)
    high = epsilon if epsilon_high is None else epsilon_high
    require_range("epsilon_high", high, at_least=0)
    advantage = tokens.advantage
    bounded = ratio.clamp(1 - epsilon, 1 + high)
    if delta is not None:
        require_range("delta", delta, at_least=0)
        ratio = ratio.clamp(max=delta)
    loss = -torch.min(ratio * advantage, bounded * advantage)
    low_clipped = (ratio < 1 - epsilon) & (advantage < 0)
    high_clipped = (ratio > 1 + high) & (advantage > 0)
    return loss, {
        "clip_ratio/low_mean": low_clipped,
        "clip_ratio/high_mean": high_clipped,
        "clip_ratio/region_mean": low_clipped | high_clipped,
    }


def off_policy_mask(tokens: TokenLogps, threshold: float) -> Tensor:
    """0.0 where a completion of negative advantage has drifted too far, else 1.0; (B, 1) or (B, T).

    Formula: 0 where A < 0 and mean_t log π_old/π > δ, else 1

    Source: arXiv:2512.02556 (DeepSeek-V3.2), equation 9. What the engine that sampled reports takes
        the place of π_old, as in the paper; a token for which it reports nothing counts as 0.

    Args:
        tokens: Of B completions.
        threshold: δ, in nats per token.
    """
    behaviour = tokens.old if tokens.sampled is None else tokens.sampled
    drift = (behaviour - tokens.logps.detach()).nan_to_num(nan=0.0)
    mean = (drift * tokens.mask).sum(dim=1, keepdim=True) / tokens.lengths
    return ((tokens.advantage >= 0) | (mean <= threshold)).to(tokens.logps.dtype)
