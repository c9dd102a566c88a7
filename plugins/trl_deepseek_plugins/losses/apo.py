"""Anchored preference optimisation: says for each completion where its likelihood should go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, UnpairedLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("apo_zero", apo_zero)
    register("apo_down", apo_down)
    register("apo_zero_unpaired", apo_zero_unpaired, data="unpaired")


def apo_zero(logps: PairLogps, beta: float = 0.1) -> Tensor:
    """Chosen up and rejected down, (B,); for chosen completions better than the model's own.

    Formula: 1 - σ(βr⁺) + σ(βr⁻),  r = log π(y)/π_ref(y)

    Source: arXiv:2408.06266, equation 7.

    Differs: by the constant 1, which TRL's ``apo_zero`` has too, so that the best value is 0.

    Args:
        logps: Of B pairs.
        beta: Scale of the log-ratios, above 0.

    Raises:
        ValueError: An option is out of range.
    """
    import torch

    require_range("beta", beta, above=0)
    return 1 - torch.sigmoid(beta * logps.chosen_ratio) + torch.sigmoid(beta * logps.rejected_ratio)


def apo_down(logps: PairLogps, beta: float = 0.1) -> Tensor:
    """Both down, rejected further, (B,); for chosen completions worse than the model's own.

    Formula: σ(βr⁺) + 1 - σ(β(r⁺ - r⁻)),  r = log π(y)/π_ref(y)

    Source: arXiv:2408.06266, equation 8.

    Differs: by the constant 1, which TRL's ``apo_down`` has too, so that the best value is 0.

    Args:
        logps: Of B pairs.
        beta: Scale of the log-ratios, above 0.

    Raises:
        ValueError: An option is out of range.
    """
    import torch

    require_range("beta", beta, above=0)
    chosen, rejected = logps.chosen_ratio, logps.rejected_ratio
    return torch.sigmoid(beta * chosen) + 1 - torch.sigmoid(beta * (chosen - rejected))


def apo_zero_unpaired(
    logps: UnpairedLogps,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Desirable up and undesirable down, on labelled singles, (B,).

    Formula: w⁺·(1 - σ(βr)) where desirable, w⁻·σ(βr) elsewhere,  r = log π(y)/π_ref(y)

    Source: arXiv:2408.06266, equation 7, one term per example.

    Differs: the paper has pairs only; the weights are those of kto. TRL's does likewise.

    Args:
        logps: Of B labelled examples.
        beta: Scale of the log-ratio, above 0.
        desirable_weight: Weight w⁺ of desirable examples, at least 0.
        undesirable_weight: Weight w⁻ of undesirable examples, at least 0.

    Raises:
        ValueError: An option is out of range.
    """
    import torch

    require_range("beta", beta, above=0)
    require_range("desirable_weight", desirable_weight, at_least=0)
    require_range("undesirable_weight", undesirable_weight, at_least=0)
    probability = torch.sigmoid(beta * logps.ratio)
    return torch.where(
        logps.label, desirable_weight * (1 - probability), undesirable_weight * probability
    )
