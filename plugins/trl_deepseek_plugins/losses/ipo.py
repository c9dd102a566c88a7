"""Identity preference optimisation: a squared loss that stops where the margin is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("ipo", ipo)


def ipo(logps: PairLogps, beta: float = 0.1, per_token: bool = True) -> Tensor:
    """Squared distance of the difference of log-ratios from 1/(2β), (B,).

    Formula: (Δ - 1/(2β))²,  Δ = log π(y⁺)/π_ref(y⁺) / |y⁺| - log π(y⁻)/π_ref(y⁻) / |y⁻|

    Source: arXiv:2310.12036, equation 17, where β is called τ.

    Differs: the equation has sums where this has means per token, so that β means the same for
        short and long completions; TRL does likewise, with the authors' agreement.
        ``per_token=False`` is the equation to the letter.

    Args:
        logps: Of B pairs.
        beta: The margin aimed at is 1/(2β) nats; above 0.
        per_token: Whether to divide each log-ratio by the completion's length.

    Raises:
        ValueError: An option is out of range.
    """
    require_range("beta", beta, above=0)
    chosen, rejected = logps.chosen_ratio, logps.rejected_ratio
    if per_token:
        chosen = chosen / logps.chosen_length.clamp(min=1)
        rejected = rejected / logps.rejected_length.clamp(min=1)
    return (chosen - rejected - 1 / (2 * beta)) ** 2
