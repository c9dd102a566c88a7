"""Binary classifier optimisation on pairs: chosen is one class, rejected the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("bco_pair", bco_pair)


def bco_pair(logps: PairLogps, beta: float = 0.1) -> Tensor:
    """Logistic loss of a classifier whose logit is the implied reward, (B,).

    Formula: -log σ(βr⁺) - log σ(-βr⁻),  r = log π(y)/π_ref(y)

    Source: arXiv:2404.04656, the BCE loss of section 4.

    Differs: the paper shifts both rewards by their running mean δ; here it is 0, as in TRL's
        ``bco_pair``, so that the loss depends on its batch alone.

    Args:
        logps: Of B pairs.
        beta: Scale of the implied reward, above 0.

    Raises:
        ValueError: An option is out of range.
    """
    import torch.nn.functional as F

    require_range("beta", beta, above=0)
    return -F.logsigmoid(beta * logps.chosen_ratio) - F.logsigmoid(-beta * logps.rejected_ratio)
