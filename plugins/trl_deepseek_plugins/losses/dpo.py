"""Direct preference optimisation: the logistic loss, with label smoothing and without reference."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register, Usual, usually

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("dpo", dpo)
    register("sigmoid", dpo)  # TRL's name for it
    register("sigmoid_norm", sigmoid_norm)


@usually(
    beta=Usual(0.01, 0.5, "docs/choosing.md, DPO; arXiv:2305.18290, appendix B, has 0.1 and 0.5"),
    label_smoothing=Usual(0.0, 0.1, "docs/choosing.md, DPO"),
)
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


def sigmoid_norm(logps: PairLogps, beta: float = 0.1) -> Tensor:
    """Logistic loss on the difference of the two log-ratios per token, (B,).

    Formula: -log σ(βΔ),  Δ = log π(y⁺)/π_ref(y⁺) / |y⁺| - log π(y⁻)/π_ref(y⁻) / |y⁻|

    Source: arXiv:2411.15124 (Tülu 3), length-normalised DPO, section 5.1.

    Differs: not at all from TRL's ``sigmoid_norm``; Tülu 3 has a beta of 5.

    Args:
        logps: Of B pairs.
        beta: Strength of the pull towards the reference, above 0.

    Raises:
        ValueError: An option is out of range.
    """
    import torch.nn.functional as F

    require_range("beta", beta, above=0)
    chosen = logps.chosen_ratio / logps.chosen_length.clamp(min=1)
    rejected = logps.rejected_ratio / logps.rejected_length.clamp(min=1)
    return -F.logsigmoid(beta * (chosen - rejected))
