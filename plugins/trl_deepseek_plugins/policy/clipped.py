"""The clipped surrogate: one loss, under the names of the ways in which it is averaged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import TokenLogps, hookimpl
from trl_deepseek.policy import clipped
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_policy_losses(register: Register) -> None:
    register("grpo", surrogate, reduction="sequence_mean", stock=True)
    register("bnpo", surrogate, reduction="token_mean", stock=True)
    register("dr_grpo", surrogate, reduction="constant", stock=True)
    register("dapo", surrogate, reduction="global_tokens", stock=True)
    register("luspo", surrogate, reduction="sequence_sum", stock=True)
    register("gspo", gspo, reduction="sequence_mean")


def surrogate(
    tokens: TokenLogps,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    delta: float | None = None,
    importance_sampling_level: str = "token",
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate per token, (B, T); its five names differ in how it is averaged.

    Formula: -min(ρ·A, clip(ρ, 1-ε, 1+ε_high)·A),  ρ = π/π_old

    Source: grpo: arXiv:2402.03300 (DeepSeekMath), equation 3, a mean over each completion, then
        over completions; dr_grpo: arXiv:2503.20783, section 3.2, a sum divided by a constant, so
        that long wrong answers do not count less per token; dapo: arXiv:2503.14476, equation 12, a
        mean over all tokens, with ε_high = 0.28; bnpo: that mean over the micro-batch alone, which
        depends on how a batch is split; luspo: arXiv:2602.05261, a sum over each completion, to be
        used with the ratio of the sequence.

    Differs: not at all from TRL's five losses of these names.

    Args:
        tokens: Of B completions.
        epsilon: How far the ratio may fall below 1.
        epsilon_high: How far it may rise above 1; None for ``epsilon``.
        delta: The most that a ratio counts where the advantage is negative (INTELLECT-2,
            arXiv:2505.07291); None for no bound.
        importance_sampling_level: ``token``, or ``sequence``, the ratio of ``gspo``.

    Raises:
        ValueError: An option is out of range.
    """
    return clipped(tokens, tokens.ratio(importance_sampling_level), epsilon, epsilon_high, delta)


def gspo(
    tokens: TokenLogps,
    epsilon: float = 3e-4,
    epsilon_high: float | None = 4e-4,
    delta: float | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate with one ratio for each sequence, (B, 1).

    Formula: -min(s·A, clip(s, 1-ε, 1+ε_high)·A),  s = (π(y)/π_old(y))^(1/|y|)

    Source: arXiv:2507.18071 (GSPO), equations 5 and 7; the clip ranges are those of section 5.1.

    Differs: not at all from TRL's ``grpo`` with ``importance_sampling_level`` ``sequence``, except
        that the ratio in the KL estimator ``unbiased`` is that of the token here.

    Args:
        tokens: Of B completions.
        epsilon: How far the ratio may fall below 1.
        epsilon_high: How far it may rise above 1; None for ``epsilon``.
        delta: The most that a ratio counts where the advantage is negative; None for no bound.

    Raises:
        ValueError: An option is out of range.
    """
    return clipped(tokens, tokens.ratio("sequence"), epsilon, epsilon_high, delta)
