"""Rewards against the mean of their group, divided by a spread or by nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import hookimpl
from trl_deepseek.policy import mean, std, weighted_sum
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-4  # as TRL, so that a group of equal rewards is divided by something


@hookimpl
def register_advantages(register: Register) -> None:
    register("grpo", grpo)
    register("dr_grpo", dr_grpo)
    register("batch_norm", batch_norm)


def grpo(scores: Tensor, weights: Tensor) -> Tensor:
    """Reward less the group's mean, divided by the group's standard deviation, (groups, G).

    Formula: (r - mean_group r) / (std_group r + 1e-4)

    Source: arXiv:2402.03300 (DeepSeekMath), section 4.1.2.

    Differs: not at all from TRL's ``scale_rewards`` ``group``; the deviation is that of a sample.
    """
    rewards = weighted_sum(scores, weights)
    return (rewards - mean(rewards, 1)) / (std(rewards, 1) + TINY)


def dr_grpo(scores: Tensor, weights: Tensor) -> Tensor:
    """Reward less the group's mean, (groups, G).

    A division by the spread would make questions count more that are nearly always, or nearly
    never, answered right.

    Formula: r - mean_group r

    Source: arXiv:2503.20783 (Dr. GRPO), section 3.2.

    Differs: not at all from TRL's ``scale_rewards`` ``none``.
    """
    rewards = weighted_sum(scores, weights)
    return rewards - mean(rewards, 1)


def batch_norm(scores: Tensor, weights: Tensor) -> Tensor:
    """Reward less the group's mean, divided by the batch's standard deviation, (groups, G).

    Formula: (r - mean_group r) / (std_batch r + 1e-4)

    Source: arXiv:2508.08221 ("Part I: tricks or traps?", Lite PPO), section 4.1.2.

    Differs: not at all from TRL's ``scale_rewards`` ``batch``.
    """
    rewards = weighted_sum(scores, weights)
    return (rewards - mean(rewards, 1)) / (std(rewards) + TINY)
