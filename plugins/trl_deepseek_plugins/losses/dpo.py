"""Direct preference optimisation: the logistic loss, with label smoothing and without reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("dpo", dpo)
    register("sigmoid", dpo)  # TRL's name for it


def dpo(
    logps: PairLogps,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    reference_free: bool = False,
) -> Tensor:
    """Logistic loss on the difference of the two log-ratios, (B,).

    Formula: -(1-ε)·log σ(βΔ) - ε·log σ(-βΔ),  Δ = log π(y⁺)/π_ref(y⁺) - log π(y⁻)/π_ref(y⁻)

    Source: arXiv:2305.18290, equation 7; the smoothing ε is Mitchell's "A note on DPO with noisy
        preferences and relationship to IPO" (cDPO), 2023.

    Differs: TRL's ``sigmoid`` takes no notice of ``label_smoothing``; this one does.

    Args:
        logps: Of B pairs.
        beta: Strength of the pull towards the reference, above 0.
        label_smoothing: Share ε of the pairs that are taken to be the wrong way round, in [0, 0.5).
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
    right = -F.logsigmoid(beta * delta)
    if label_smoothing == 0:
        return right
    return (1 - label_smoothing) * right - label_smoothing * F.logsigmoid(-beta * delta)
