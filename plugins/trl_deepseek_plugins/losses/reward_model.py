r"""Losses of a reward model: how far the chosen answer's score must be above the rejected one's.

All of them are functions of the difference d = r(x, chosen) - r(x, rejected) alone, so that a
reward model is defined up to a constant per prompt; ``center_rewards_coefficient`` fixes it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trl_deepseek import hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import PairRewards, Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    for name, loss in (
        ("bradley_terry", bradley_terry),
        ("margin", margin),
        ("margin_hinge", margin_hinge),
        ("focal_ranking", focal_ranking),
    ):
        register(name, loss, data="rewards", reference=False)


def bradley_terry(rewards: PairRewards, label_smoothing: float = 0.0) -> Tensor:
    r"""``-log sigmoid(d - m)``, with the row's margin m where the data has one; (B,).

    Args:
        rewards: Scores of the pairs.
        label_smoothing: Share ε of pairs whose label is taken to be wrong:
            ``-(1 - ε) log sigmoid(d - m) - ε log sigmoid(m - d)``; at least 0 and below 0.5,
            where the labels would say nothing.

    Source: arXiv:2203.02155, equation 1; the margin is arXiv:2307.09288, equation 2; label
    smoothing for reward models is proposed in arXiv:2401.06080.
    """
    from torch.nn.functional import logsigmoid

    require_range("label_smoothing", label_smoothing, at_least=0, below=0.5)
    lead = _difference(rewards)
    loss = -logsigmoid(lead)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * logsigmoid(-lead)
    return loss


def margin(rewards: PairRewards, margin: float = 1.0) -> Tensor:
    """``-log sigmoid(d - m)``; a row without a margin of its own has ``margin``; (B,).

    Args:
        rewards: Scores of the pairs.
        margin: By how much a score must lead where the data does not say; positive.

    Source: arXiv:2307.09288, equation 2, whose m grows with how clear the annotators found the
    preference, from 0 to 1 ("small") or from 0 to 3 ("large").
    """
    from torch.nn.functional import logsigmoid

    require_range("margin", margin, above=0)
    return -logsigmoid(_difference(rewards, margin))


def margin_hinge(rewards: PairRewards, margin: float = 1.0) -> Tensor:
    """``max(0, m - d)``: nothing to gain beyond the margin; (B,).

    Args:
        rewards: Scores of the pairs.
        margin: m where the data has none; positive.

    Source: the ranking hinge of arXiv:2305.10425 (SLiC-HF), equation 1, on scores instead of
    log-probs.
    """
    require_range("margin", margin, above=0)
    return (-_difference(rewards, margin)).clamp(min=0)


def focal_ranking(rewards: PairRewards, gamma: float = 2.0) -> Tensor:
    r"""``-(1 - 2 max(0, P - 1/2))^γ log P`` with ``P = sigmoid(d - m)``; (B,).

    Pairs that are ranked rightly with confidence count less; those ranked wrongly as in
    ``bradley_terry``.

    Args:
        rewards: Scores of the pairs.
        gamma: γ; 0 is ``bradley_terry``.

    Source: arXiv:2403.17297 (InternLM2), equation 1, with γ = 2; its margin is the row's.
    """
    from torch.nn.functional import logsigmoid

    require_range("gamma", gamma, at_least=0)
    lead = _difference(rewards)
    # 1 - 2 (P - 1/2) = 2 sigmoid(-d), whose power has a finite gradient only as an exponential
    log_weight = (math.log(2) + logsigmoid(-lead)).clamp(max=0)
    return -(gamma * log_weight).exp() * logsigmoid(lead)


def _difference(rewards: PairRewards, margin: float = 0.0) -> Tensor:
    """``d - m``, m from the row or else ``margin``; (B,)."""
    lead = rewards.chosen - rewards.rejected
    return lead - (margin if rewards.margin is None else rewards.margin)
