"""Several rewards, each put on one scale before they are added up."""

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
    register("gdpo", gdpo)


def gdpo(scores: Tensor, weights: Tensor) -> Tensor:
    """Each reward normalised in its group, their weighted sum normalised over the batch.

    Rewards that are added up first can cancel each other, so that different completions of a group
    get the same advantage. Returns (groups, G).

    Formula: (s - mean_batch s) / (std_batch s + 1e-4),
        s = Σ_k w_k · (r_k - mean_group r_k) / (std_group r_k + 1e-4)

    Source: arXiv:2601.05242 (GDPO), section 3.1, equations 4 to 7.

    Differs: not at all from TRL's ``multi_objective_aggregation`` ``normalize_then_sum``.
    """
    normalised = (scores - mean(scores, 1)) / (std(scores, 1) + TINY)
    total = weighted_sum(normalised, weights)
    return (total - mean(total)) / (std(total) + TINY)
