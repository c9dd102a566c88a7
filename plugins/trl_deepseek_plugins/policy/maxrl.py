"""Rewards against the mean of their group, divided by that mean: towards maximum likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import hookimpl
from trl_deepseek.policy import mean, weighted_sum
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_advantages(register: Register) -> None:
    register("maxrl", maxrl, kl_in_reward=False)


def maxrl(scores: Tensor, weights: Tensor) -> Tensor:
    """Reward less the group's mean, divided by the group's mean, (groups, G); 0 where that is 0.

    With rewards of 0 and 1 the gradient is that of the log-likelihood of being right, as far as G
    completions tell (its series up to order G - 1), instead of that of the share that is right:
    rare successes count more.

    Formula: (r - mean_group r) / mean_group r

    Source: arXiv:2602.02710 (Maximum likelihood reinforcement learning), algorithm 1.

    Raises:
        ValueError: A reward is negative: the mean is no share of successes.
    """
    import torch

    rewards = weighted_sum(scores, weights)
    if bool((rewards < 0).any()):
        raise ValueError("maxrl takes rewards of at least 0, best 0 and 1")
    centre = mean(rewards, 1)
    return torch.where(centre > 0, (rewards - centre) / centre, torch.zeros_like(rewards))
