"""Contrastive preference optimisation: dpo with a uniform reference, and likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("cpo", cpo, reference=False)


def cpo(
    logps: PairLogps, beta: float = 0.1, alpha: float = 1.0, label_smoothing: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logistic loss on the difference of log-probs plus likelihood of the chosen one, (B,).

    Formula: -(1-ε)·log σ(βδ) - ε·log σ(-βδ) - α·log π(y⁺)/|y⁺|,  δ = log π(y⁺) - log π(y⁻)

    Source: arXiv:2401.08417, equation 3 and the objective that adds the likelihood.

    Differs: the likelihood is the mean per token of each completion; the paper's is a sum, TRL's a
        mean over all tokens of the batch (the same where all completions are of one length).

    Args:
        logps: Of B pairs.
        beta: Scale of the difference, above 0.
        alpha: Weight of the likelihood term, at least 0.
        label_smoothing: Share ε of the pairs that are taken to be the wrong way round, in [0, 0.5).

    Raises:
        ValueError: An option is out of range.
    """
    import torch.nn.functional as F

    require_range("beta", beta, above=0)
    require_range("alpha", alpha, at_least=0)
    require_range("label_smoothing", label_smoothing, at_least=0, below=0.5)
    scaled = beta * (logps.chosen - logps.rejected)
    preference = -F.logsigmoid(scaled) * (1 - label_smoothing)
    preference = preference - F.logsigmoid(-scaled) * label_smoothing
    nll = -logps.chosen / logps.chosen_length.clamp(min=1)
    metrics = {
        "rewards/chosen": beta * logps.chosen.detach(),
        "rewards/rejected": beta * logps.rejected.detach(),
        "nll_loss": nll.detach(),
    }
    return preference + alpha * nll, metrics
