"""Estimates of the KL divergence of the policy from its reference, by name.

Source: Schulman, "Approximating KL divergence", 2020, for k1 to k3; DeepSeek-V3.2,
arXiv:2512.02556, section 3.1, "Unbiased KL Estimate", for ``unbiased``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek.policy_types import TokenLogps

if TYPE_CHECKING:
    from torch import Tensor


def estimate(name: str, tokens: TokenLogps, level: str = "token") -> Tensor:
    """The estimate per token, (B, T), nats, with gradient.

    With r = π_ref/π and ρ = π/π_old: ``k1`` is -log r, without bias but of either sign, and as a
    loss its gradient is zero on average; ``k2`` is ½·(log r)², whose gradient is that of the
    divergence where the policy itself sampled; ``k3`` is r - log r - 1, never negative and of low
    variance, with a biased gradient; ``unbiased`` is ρ·(r - log r - 1), whose gradient is that of
    the divergence.

    Args:
        name: Of the estimator.
        tokens: With ``ref``.
        level: What ρ is a ratio of; see :meth:`TokenLogps.ratio`.

    Raises:
        ValueError: There is no reference, or no such estimator.
    """
    if tokens.ref is None:
        raise ValueError("there are no reference log-probs: beta is 0")
    log_ratio = tokens.ref - tokens.logps
    if name == "k1":
        return -log_ratio
    if name == "k2":
        return 0.5 * log_ratio**2
    k3 = log_ratio.exp() - log_ratio - 1
    if name == "k3":
        return k3
    if name == "unbiased":
        return tokens.ratio(level) * k3
    raise ValueError(f"there is no estimator {name!r}")
