"""Importance weights that are clipped instead of the update: no token loses its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import TokenLogps, hookimpl
from trl_deepseek.policy import require_range
from trl_deepseek.types import Register, Usual, usually

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_policy_losses(register: Register) -> None:
    register("cispo", cispo, reduction="global_tokens", stock=True)


@usually(
    epsilon_high=Usual(
        *(1.0, 10.0, "TRL's documentation of epsilon_high, after arXiv:2510.13786, has 5"),
        below="every importance weight is cut far below 1",
    )
)
def cispo(
    tokens: TokenLogps,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    importance_sampling_level: str = "token",
) -> tuple[Tensor, dict[str, Tensor]]:
    """REINFORCE with importance weights that are bounded above and carry no gradient, (B, T).

    Formula: -sg(min(ρ, ε_high))·A·log π,  ρ = π/π_old

    Source: arXiv:2506.13585 (MiniMax-M1), equations 4 and 5.

    Differs: not at all from TRL's ``cispo``: the bound is ε_high itself, where the paper has 1 + ε.

    Args:
        tokens: Of B completions.
        epsilon: The bound where ``epsilon_high`` is None, as in TRL.
        epsilon_high: The most that a weight counts.
        importance_sampling_level: ``token``, or ``sequence``, the ratio of ``gspo``.

    Raises:
        ValueError: An option is out of range.
    """
    bound = epsilon if epsilon_high is None else epsilon_high
    require_range("epsilon_high", bound, at_least=0)
    ratio = tokens.ratio(importance_sampling_level).detach()
    loss = -ratio.clamp(max=bound) * tokens.advantage * tokens.logps
    return loss, {"cispo_clip_ratio": (ratio > bound) & (tokens.advantage > 0)}
