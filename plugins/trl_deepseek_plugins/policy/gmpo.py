"""The geometric mean of the tokens' ratios, clipped one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import TokenLogps, hookimpl
from trl_deepseek.policy import require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_policy_losses(register: Register) -> None:
    register("gmpo", gmpo, reduction="sequence_mean")


def gmpo(
    tokens: TokenLogps, epsilon: float = 0.4, epsilon_high: float | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Advantage times the geometric mean of clipped ratios, (B, 1).

    An outlier among the ratios moves a geometric mean far less than a mean, which allows for a much
    wider clip range.

    Formula: -A·exp(1/|y|·Σ_t c_t),  c_t = log ρ_t, at most ε_high where A > 0, else at least -ε

    Source: arXiv:2507.20673 (GMPO), equation 4; its range is (e^-0.4, e^0.4).

    Differs: not at all from TRL's experimental GMPO, except that ``top_entropy_quantile`` masks the
        loss of a token and not its ratio.

    Args:
        tokens: Of B completions.
        epsilon: The least log-ratio is minus this, in nats.
        epsilon_high: The greatest log-ratio; None for ``epsilon``.

    Raises:
        ValueError: An option is out of range.
    """
    import torch

    require_range("epsilon", epsilon, at_least=0)
    high = epsilon if epsilon_high is None else epsilon_high
    require_range("epsilon_high", high, at_least=0)
    advantage = tokens.advantages if tokens.advantages.dim() == 1 else _one(tokens)
    positive = (advantage > 0).unsqueeze(1)
    log_ratio = tokens.log_ratio
    kept = torch.where(positive, log_ratio.clamp(max=high), log_ratio.clamp(min=-epsilon))
    coefficient = ((kept * tokens.mask).sum(dim=1) / tokens.lengths.squeeze(1)).exp()
    low_clipped = (log_ratio < -epsilon) & (advantage < 0).unsqueeze(1)
    high_clipped = (log_ratio > high) & positive
    return (-coefficient * advantage).unsqueeze(1), {
        "clip_ratio/low_mean": low_clipped,
        "clip_ratio/high_mean": high_clipped,
        "clip_ratio/region_mean": low_clipped | high_clipped,
    }


def _one(tokens: TokenLogps) -> Tensor:
    """The mean advantage of each completion, (B,)."""
    return (tokens.advantages * tokens.mask).sum(dim=1) / tokens.lengths.squeeze(1)
