"""Noise contrastive alignment: rewards are absolute, so that the chosen one may not sink."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("nca", nca)
    register("nca_pair", nca)  # TRL's name for it


def nca(logps: PairLogps, beta: float = 0.1) -> Tensor:
    """Chosen against noise and both against the reference, (B,).

    Formula: -log σ(βr⁺) - ½·log σ(-βr⁺) - ½·log σ(-βr⁻),  r = log π(y)/π_ref(y)

    Source: arXiv:2402.05369, the pairwise NCA loss.

    Differs: not at all from TRL's ``nca_pair``.

    Args:
        logps: Of B pairs.
        beta: Temperature of the implied reward, above 0.

    Raises:
        ValueError: An option is out of range.
    """
    import torch.nn.functional as F

    require_range("beta", beta, above=0)
    chosen, rejected = beta * logps.chosen_ratio, beta * logps.rejected_ratio
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)
