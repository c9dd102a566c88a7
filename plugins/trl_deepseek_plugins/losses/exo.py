"""Efficient exact optimisation: the reverse KL to smoothed labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("exo", exo)
    register("exo_pair", exo)  # TRL's name for it


def exo(logps: PairLogps, beta: float = 0.1, label_smoothing: float = 1e-3) -> Tensor:
    """KL from the policy's preference to the labels (1-ε, ε), (B,).

    Formula: σ(βΔ)·[log σ(βΔ) - log(1-ε)] + σ(-βΔ)·[log σ(-βΔ) - log ε],  Δ as in dpo

    Source: arXiv:2402.00856, equation 16, for two completions.

    Differs: not at all from TRL's ``exo_pair``, except that ε has the paper's value by default.

    Args:
        logps: Of B pairs.
        beta: The paper's β_π, above 0.
        label_smoothing: Probability ε of the label that was not given, in (0, 0.5).

    Raises:
        ValueError: An option is out of range.
    """
    import math

    import torch
    import torch.nn.functional as F

    require_range("beta", beta, above=0)
    require_range("label_smoothing", label_smoothing, above=0, below=0.5)
    scaled = beta * (logps.chosen_ratio - logps.rejected_ratio)
    right = torch.sigmoid(scaled) * (F.logsigmoid(scaled) - math.log1p(-label_smoothing))
    wrong = torch.sigmoid(-scaled) * (F.logsigmoid(-scaled) - math.log(label_smoothing))
    return right + wrong
