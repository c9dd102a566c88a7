"""Kahneman-Tversky optimisation: labelled single examples, gains and losses from a zero point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import UnpairedLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("kto", kto, data="unpaired", kl=True)


def kto(
    logps: UnpairedLogps,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """What is missing to the full value of each example, (B,).

    Formula: w⁺·(1 - σ(β(r - z₀))) where desirable, w⁻·(1 - σ(β(z₀ - r))) elsewhere,
        r = log π(y)/π_ref(y), z₀ = the batch's KL estimate

    Source: arXiv:2402.01306, equation 7; the range of the weights is equation 8.

    Differs: not at all from TRL's ``kto``. The trainer estimates z₀ from completions moved on by
        one row within a batch, as both do, and orders pairs so that they meet other prompts.

    Args:
        logps: Of B labelled examples, with ``kl``.
        beta: Risk aversion, above 0.
        desirable_weight: Weight w⁺ (the paper's λ_D) of desirable examples, at least 0.
        undesirable_weight: Weight w⁻ (the paper's λ_U) of undesirable examples, at least 0.

    Raises:
        ValueError: An option is out of range.
    """
    import torch

    require_range("beta", beta, above=0)
    require_range("desirable_weight", desirable_weight, at_least=0)
    require_range("undesirable_weight", undesirable_weight, at_least=0)
    if logps.kl is None:
        raise ValueError("it needs the KL estimate: register it with kl=True")
    gain = beta * (logps.ratio - logps.kl)
    return torch.where(
        logps.label,
        desirable_weight * (1 - torch.sigmoid(gain)),
        undesirable_weight * (1 - torch.sigmoid(-gain)),
    )
