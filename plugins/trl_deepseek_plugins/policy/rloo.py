"""Rewards against the mean of the others in their group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import hookimpl
from trl_deepseek.policy import weighted_sum
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_advantages(register: Register) -> None:
    register("rloo", rloo)


def rloo(scores: Tensor, weights: Tensor) -> Tensor:
    """Reward less the mean of the others of its group, (groups, G); 0 where there are no others.

    Formula: r_i - 1/(G-1) · Σ_{j≠i} r_j

    Source: arXiv:2402.14740 (Back to basics), section 2.3; Kool et al., "Buy 4 REINFORCE samples,
        get a baseline for free", 2019.
    """
    rewards = weighted_sum(scores, weights)
    others = (~rewards.isnan()).sum(dim=1, keepdim=True) - 1
    baseline = (rewards.nansum(dim=1, keepdim=True) - rewards) / others.clamp(min=1)
    return (rewards - baseline).masked_fill(others < 1, 0.0)
