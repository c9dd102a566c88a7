"""A smooth gate in the place of the clip."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import TokenLogps, hookimpl
from trl_deepseek.policy import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_policy_losses(register: Register) -> None:
    register("sapo", sapo, reduction="sequence_mean", stock=True)


def sapo(
    tokens: TokenLogps,
    sapo_temperature_neg: float = 1.05,
    sapo_temperature_pos: float = 1.0,
    importance_sampling_level: str = "token",
) -> Tensor:
    """Advantage times a sigmoid gate of the ratio, (B, T).

    Formula: -4/τ·σ(τ·(ρ - 1))·A,  ρ = π/π_old,  τ by the sign of A

    Source: arXiv:2511.20347 (SAPO), equations 5 and 6.

    Differs: not at all from TRL's ``sapo``.

    Args:
        tokens: Of B completions.
        sapo_temperature_neg: τ where the advantage is not positive; a larger one closes the gate
            sooner.
        sapo_temperature_pos: τ where the advantage is positive.
        importance_sampling_level: ``token``, or ``sequence``, the ratio of ``gspo``.

    Raises:
        ValueError: An option is out of range.
    """
    import torch

    require_range("sapo_temperature_neg", sapo_temperature_neg, above=0)
    require_range("sapo_temperature_pos", sapo_temperature_pos, above=0)
    advantage = tokens.advantage
    temperature = torch.where(advantage > 0, sapo_temperature_pos, sapo_temperature_neg)
    gate = torch.sigmoid(temperature * (tokens.ratio(importance_sampling_level) - 1))
    return -gate * 4 / temperature * advantage
