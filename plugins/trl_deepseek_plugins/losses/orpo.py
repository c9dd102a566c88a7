"""Odds ratio preference optimisation: supervised training that also widens the odds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("orpo", orpo, reference=False, prompt_nll=True)


def orpo(logps: PairLogps, beta: float = 0.1) -> tuple[Tensor, dict[str, Tensor]]:
    """Negative log-likelihood of prompt and chosen, plus the logistic loss of the odds ratio, (B,).

    Formula: NLL(x, y⁺) - β·log σ(log odds(y⁺) - log odds(y⁻)),
        odds = p/(1-p), log p = log π(y)/|y|

    Source: arXiv:2403.07691, equations 4, 6 and 7, where β is called λ.

    Differs: the likelihood covers the prompt too, as in the authors' code and TRL's, and is the
        mean per token of each row, where theirs is over all tokens of the batch (the same where
        all rows are of one length). Probabilities are kept a rounding step below 1.

    Args:
        logps: Of B pairs, with ``chosen_nll``.
        beta: Weight λ of the odds ratio, above 0.

    Raises:
        ValueError: An option is out of range.
    """
    import torch
    import torch.nn.functional as F

    require_range("beta", beta, above=0)
    if logps.chosen_nll is None:
        raise ValueError("it needs chosen_nll: register it with prompt_nll=True")
    chosen = logps.chosen / logps.chosen_length.clamp(min=1)
    rejected = logps.rejected / logps.rejected_length.clamp(min=1)

    def log_odds(mean: Tensor) -> Tensor:
        mean = mean.clamp(max=-torch.finfo(mean.dtype).eps)  # at p = 1 the odds would be infinite
        return mean - torch.log(-torch.expm1(mean))

    log_odds_ratio = log_odds(chosen) - log_odds(rejected)
    ratio = F.logsigmoid(log_odds_ratio)
    metrics = {
        "rewards/chosen": beta * chosen.detach(),
        "rewards/rejected": beta * rejected.detach(),
        "nll_loss": logps.chosen_nll.detach(),
        "log_odds_ratio": ratio.detach(),
        "log_odds_chosen": log_odds_ratio.detach(),
    }
    return logps.chosen_nll - beta * ratio, metrics
