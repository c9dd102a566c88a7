"""Robust DPO: unbiased where a known share of the preferences is flipped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("robust", robust)


def robust(
    logps: PairLogps,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    reference_free: bool = False,
) -> Tensor:
    """Logistic loss corrected for flipped pairs, (B,); its mean is that of clean pairs.

    Formula: [-(1-ε)·log σ(βΔ) + ε·log σ(-βΔ)] / (1-2ε),  Δ as in dpo

    Source: arXiv:2403.00409 (rDPO), the robust loss.

    Differs: not at all from TRL's ``robust``. Where dpo's smoothing adds the loss of the flipped
        pair, this subtracts it: it goes below zero and never rewards hesitation.

    Args:
        logps: Of B pairs.
        beta: Strength of the pull towards the reference, above 0.
        label_smoothing: Share ε of the pairs known to be the wrong way round, in [0, 0.5).
        reference_free: Whether to take a uniform reference: Δ = log π(y⁺) - log π(y⁻).

    Raises:
        ValueError: An option is out of range.
    """
    import torch.nn.functional as F

    require_range("beta", beta, above=0)
    require_range("label_smoothing", label_smoothing, at_least=0, below=0.5)
    if reference_free:
        delta = logps.chosen - logps.rejected
    else:
        delta = logps.chosen_ratio - logps.rejected_ratio
    clean = -(1 - label_smoothing) * F.logsigmoid(beta * delta)
    flipped = -label_smoothing * F.logsigmoid(-beta * delta)
    return (clean - flipped) / (1 - 2 * label_smoothing)
