"""What DeepSeek-V3.2 adds to GRPO: an unbiased KL term, and no lessons from strangers' mistakes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import TokenLogps, hookimpl
from trl_deepseek.policy import clipped, off_policy_mask
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_policy_losses(register: Register) -> None:
    register("deepseek_v3_2", deepseek_v3_2, reduction="sequence_mean")


def deepseek_v3_2(
    tokens: TokenLogps,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    off_policy_mask_threshold: float = 0.5,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate without the bad completions that the policy would hardly write, (B, T).

    With beta, the paper's KL term is the estimator ``unbiased``, which is the default.

    Formula: -M·min(ρ·A, clip(ρ, 1-ε, 1+ε_high)·A),
        M = 0 where A < 0 and mean_t log π_old/π > δ, else 1

    Source: arXiv:2512.02556 (DeepSeek-V3.2), section 3.1, equations 7 to 9.

    Differs: not at all from TRL's ``grpo`` with ``off_policy_mask_threshold`` and
        ``use_bias_correction_kl``; Keep Routing and Keep Sampling Mask are not there.

    Args:
        tokens: Of B completions; ``sampled``, where it is there, stands for π_old in M.
        epsilon: How far the ratio may fall below 1.
        epsilon_high: How far it may rise above 1; None for ``epsilon``.
        off_policy_mask_threshold: δ, in nats per token; the paper does not give it, TRL's
            documentation begins with 0.5.

    Raises:
        ValueError: An option is out of range.
    """
    loss, metrics = clipped(tokens, tokens.ratio(), epsilon, epsilon_high)
    mask = off_policy_mask(tokens, off_policy_mask_threshold)
    return loss * mask, {**metrics, "off_policy_mask_mean": mask}
