"""Alignment via optimal transport: the sorted rewards of a batch are compared, rank by rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("aot", aot)
    register("aot_unpaired", aot_unpaired)


def aot(logps: PairLogps, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """The policy's margins must dominate the reference's, rank by rank of the batch, (B,).

    Formula: -(1-ε)·log σ(βδ₍ᵢ₎) - ε·log σ(-βδ₍ᵢ₎),  δ₍ᵢ₎ = m₍ᵢ₎ - m_ref₍ᵢ₎, both sorted over the
        batch,  m = log π(y⁺) - log π(y⁻)

    Source: arXiv:2406.05882, the paired objective with the logistic loss.

    Differs: not at all from TRL's ``aot``. The ranks are those of one process's batch, without
        accumulation, which should be large.

    Args:
        logps: Of B pairs.
        beta: Scale of the violation, above 0.
        label_smoothing: Share ε of the pairs that are taken to be the wrong way round, in [0, 0.5).

    Raises:
        ValueError: An option is out of range.
    """
    if logps.ref_chosen is None or logps.ref_rejected is None:
        raise ValueError("it compares with the reference: register it with reference=True")
    policy = (logps.chosen - logps.rejected).sort().values
    reference = (logps.ref_chosen - logps.ref_rejected).sort().values
    return _logistic(policy - reference, beta, label_smoothing)


def aot_unpaired(logps: PairLogps, beta: float = 0.1, label_smoothing: float = 0.0) -> Tensor:
    """Chosen rewards must dominate rejected ones, rank by rank of the batch, (B,).

    Formula: as aot, with δ₍ᵢ₎ = r⁺₍ᵢ₎ - r⁻₍ᵢ₎, both sorted over the batch,  r = log π(y)/π_ref(y)

    Source: arXiv:2406.05882, the unpaired objective with the logistic loss.

    Differs: not at all from TRL's ``aot_unpaired``, which takes pairs too. The ranks are those of
        one process's batch, without accumulation, which should be large.

    Args:
        logps: Of B pairs.
        beta: Scale of the violation, above 0.
        label_smoothing: Share ε of the pairs that are taken to be the wrong way round, in [0, 0.5).

    Raises:
        ValueError: An option is out of range.
    """
    chosen, rejected = logps.chosen_ratio.sort().values, logps.rejected_ratio.sort().values
    return _logistic(chosen - rejected, beta, label_smoothing)


def _logistic(delta: Tensor, beta: float, label_smoothing: float) -> Tensor:
    import torch.nn.functional as F

    require_range("beta", beta, above=0)
    require_range("label_smoothing", label_smoothing, at_least=0, below=0.5)
    right = -F.logsigmoid(beta * delta)
    return (1 - label_smoothing) * right - label_smoothing * F.logsigmoid(-beta * delta)
