"""Self-play preference optimisation, hard form: each log-ratio has its own target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.losses import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_losses(register: Register) -> None:
    register("sppo", sppo)
    register("sppo_hard", sppo)  # TRL's name for it


def sppo(logps: PairLogps, beta: float = 0.1) -> Tensor:
    """Squared distances of the log-ratios from +1/(2β) and -1/(2β), (B,).

    Formula: (r⁺ - 1/(2β))² + (r⁻ + 1/(2β))²,  r = log π(y)/π_ref(y)

    Source: arXiv:2405.00675, equation 4.7, with β = 1/η.

    Differs: the paper takes win rates from a preference model; here the chosen completion wins with
        certainty, as in TRL's ``sppo_hard``. Drawing new pairs between rounds is left to the user.

    Args:
        logps: Of B pairs.
        beta: The targets are 1/(2β) nats from the reference; above 0.

    Raises:
        ValueError: An option is out of range.
    """
    require_range("beta", beta, above=0)
    target = 0.5 / beta
    return (logps.chosen_ratio - target) ** 2 + (logps.rejected_ratio + target) ** 2
