"""REINFORCE under a smooth weight of the whole sequence's importance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trl_deepseek import TokenLogps, hookimpl
from trl_deepseek.policy import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor

LOWEST, HIGHEST = math.log(1e-8), 20.0  # of a log-ratio, as in TRL


@hookimpl
def register_policy_losses(register: Register) -> None:
    register("vespo", vespo, reduction="global_tokens", stock=True, owns_importance=True)


def vespo(
    tokens: TokenLogps,
    vespo_k_pos: float = 2.0,
    vespo_lambda_pos: float = 3.0,
    vespo_k_neg: float = 3.0,
    vespo_lambda_neg: float = 2.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """REINFORCE under a gamma weight of the importance of the sequence, (B, T).

    Formula: -φ(w)·A·log π,  φ(w) = w^k·exp(λ·(1 - w)),  w = π(y)/π_old(y) without gradient

    Source: arXiv:2602.10693 (VESPO), whose (k, λ) in section 4.7 are the defaults.

    Differs: not at all from TRL's ``vespo``; log w is kept between log 1e-8 and 20.

    Args:
        tokens: Of B completions; ``importance`` becomes part of w.
        vespo_k_pos: k where the advantage is not negative: how fast small w count less.
        vespo_lambda_pos: λ there: how fast large w count less.
        vespo_k_neg: k where the advantage is negative.
        vespo_lambda_neg: λ there.

    Raises:
        ValueError: An option is out of range.
    """
    import torch

    given = (vespo_k_pos, vespo_lambda_pos, vespo_k_neg, vespo_lambda_neg)
    names = ("vespo_k_pos", "vespo_lambda_pos", "vespo_k_neg", "vespo_lambda_neg")
    for name, value in zip(names, given, strict=True):
        require_range(name, value, at_least=0)
    with torch.no_grad():
        bounded = tokens.log_ratio.clamp(-HIGHEST, HIGHEST)
        log_weight = (bounded * tokens.mask).sum(dim=1, keepdim=True)
        if tokens.importance is not None:
            corrected = tokens.importance.log().clamp(LOWEST, HIGHEST)
            log_weight = log_weight + corrected.sum(dim=1, keepdim=True)
        log_weight = log_weight.clamp(LOWEST, HIGHEST)
        good = tokens.advantage >= 0
        power = torch.where(good, vespo_k_pos, vespo_k_neg)
        decay = torch.where(good, vespo_lambda_pos, vespo_lambda_neg).clamp(min=1e-4)
        weight = (decay + power * log_weight - decay * log_weight.exp()).exp()
        weight = weight.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return -weight * tokens.advantage * tokens.logps, {"vespo/phi_seq_mean": weight}
