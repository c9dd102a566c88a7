"""DiscoPOP: the blend of logistic and exponential loss that a language model proposed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("discopop", discopop)


def discopop(logps: PairLogps, beta: float = 0.1, discopop_tau: float = 0.05) -> Tensor:
    """Logistic where the pair is ranked wrongly, exponential where it is ranked rightly, (B,).

    Formula: (1 - σ(βΔ/τ))·(-log σ(βΔ)) + σ(βΔ/τ)·exp(-βΔ),  Δ as in dpo

    Source: arXiv:2406.08414, equation 5 (log-ratio modulated loss).

    Differs: not at all from TRL's ``discopop``.

    Args:
        logps: Of B pairs.
        beta: Scale of the difference, above 0.
        discopop_tau: Temperature τ of the blend, above 0.

    Raises:
        ValueError: An option is out of range.
    """
    import torch
    import torch.nn.functional as F

    require_range("beta", beta, above=0)
    require_range("discopop_tau", discopop_tau, above=0)
    scaled = beta * (logps.chosen_ratio - logps.rejected_ratio)
    blend = torch.sigmoid(scaled / discopop_tau)
    return (1 - blend) * -F.logsigmoid(scaled) + blend * torch.exp(-scaled)
