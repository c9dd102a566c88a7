"""The hinge loss of SLiC on log-ratios: pairs beyond the margin teach nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("hinge", hinge)


def hinge(logps: PairLogps, beta: float = 0.1, reference_free: bool = False) -> Tensor:
    """Hinge on the difference of log-ratios, (B,); zero from Δ = 1/β on.

    Formula: max(0, 1 - βΔ),  Δ as in dpo

    Source: arXiv:2305.10425 (SLiC-HF), the rank calibration loss; with log-ratios to a reference
        as in arXiv:2309.06657 (RSO, "hinge-norm").

    Differs: SLiC-HF has no reference in it (``reference_free=True``) and adds a term that holds
        the policy close to it, which the log-ratios do here; TRL's ``hinge`` does likewise.

    Args:
        logps: Of B pairs.
        beta: The margin aimed at is 1/β nats; above 0.
        reference_free: Whether to take a uniform reference: Δ = log π(y⁺) - log π(y⁻).

    Raises:
        ValueError: An option is out of range.
    """
    import torch

    require_range("beta", beta, above=0)
    if reference_free:
        delta = logps.chosen - logps.rejected
    else:
        delta = logps.chosen_ratio - logps.rejected_ratio
    return torch.relu(1 - beta * delta)
