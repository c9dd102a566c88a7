"""Rewards against the mean of their group, normalised over the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import hookimpl
from trl_deepseek.policy import mean, std, weighted_sum
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor

TINY = 1e-4


@hookimpl
def register_advantages(register: Register) -> None:
    register("reinforce_pp", reinforce_pp)


def reinforce_pp(scores: Tensor, weights: Tensor) -> Tensor:
    """Reward less the group's mean, then normalised over the batch, (groups, G).

    What is divided by is the spread of the differences, which, unlike that of the rewards of
    ``batch_norm``, does not grow with how differently hard the questions are.

    Formula: (a - mean_batch a) / (std_batch a + 1e-4),  a = r - mean_group r

    Source: arXiv:2501.03262 (REINFORCE++), section 3.2, equations 6 and 7: the variant with
        baseline, which has its KL term in the loss, estimated by k2.

    Differs: mean and deviation are over completions; the authors' code has them over tokens.
    """
    rewards = weighted_sum(scores, weights)
    difference = rewards - mean(rewards, 1)
    return (difference - mean(difference)) / (std(difference) + TINY)
