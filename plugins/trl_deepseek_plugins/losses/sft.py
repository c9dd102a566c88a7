"""Likelihood of the chosen completions: supervised training on one side of the pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("sft", sft, reference=False)


def sft(logps: PairLogps) -> Tensor:
    """Mean negative log-likelihood per token of the batch's chosen completions, B times, (B,).

    Formula: -Σ log π(y⁺) / Σ|y⁺|, sums over the batch

    Source: the likelihood term of RPO, arXiv:2404.19733, and of MPO, arXiv:2411.10442, which add it
        to ``dpo`` with a weight.

    Differs: RPO takes the mean of each completion; here, as in TRL's ``sft``, every token of a
        batch counts alike.

    Args:
        logps: Of B pairs.
    """
    mean = -logps.chosen.sum() / logps.chosen_length.sum().clamp(min=1)
    return mean.expand(len(logps.chosen))
