"""Entropy kept up: the tokens whose log-prob and advantage covary most are held back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import TokenLogps, hookimpl
from trl_deepseek.policy import clipped, require_range
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_policy_losses(register: Register) -> None:
    register("clip_cov", clip_cov, reduction="global_tokens")
    register("kl_cov", kl_cov, reduction="global_tokens")


def clip_cov(
    tokens: TokenLogps,
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    clip_cov_ratio: float = 2e-4,
    clip_cov_low: float = 1.0,
    clip_cov_high: float = 5.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Clipped surrogate without the gradient of a few tokens of high covariance, (B, T).

    Formula: that of ``grpo``, times 0 at ⌊r·N⌋ tokens, at least 1, drawn among those with
        ω_low < (log π - mean log π)·(A - mean A) < ω_high

    Source: arXiv:2505.22617 (The entropy mechanism), equations 10 to 12; the defaults are those of
        section 4.3, and verl's ``clip_cov``.

    Differs: the paper detaches the tokens that are held back, which has the same gradient.

    Args:
        tokens: Of B completions; means are over the scored tokens of the micro-batch.
        epsilon: How far the ratio may fall below 1.
        epsilon_high: How far it may rise above 1; None for ``epsilon``.
        clip_cov_ratio: r, the share of the tokens that is held back.
        clip_cov_low: ω_low.
        clip_cov_high: ω_high.

    Raises:
        ValueError: An option is out of range.
    """
    import torch

    require_range("clip_cov_ratio", clip_cov_ratio, at_least=0, at_most=1)
    loss, metrics = clipped(tokens, tokens.ratio(), epsilon, epsilon_high)
    covariance = _covariance(tokens)
    eligible = tokens.mask & (covariance > clip_cov_low) & (covariance < clip_cov_high)
    eligible &= ~metrics["clip_ratio/region_mean"]
    places = eligible.nonzero()
    count = max(int(clip_cov_ratio * int(tokens.mask.sum())), 1)
    drawn = places[torch.randperm(len(places))[:count]]
    held = torch.zeros_like(tokens.mask)
    held[drawn[:, 0], drawn[:, 1]] = True
    return loss.masked_fill(held, 0.0), {**metrics, "clip_ratio/covariance_mean": held}


def kl_cov(
    tokens: TokenLogps, kl_cov_ratio: float = 2e-4, kl_cov_coef: float = 1.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Policy gradient with a penalty on movement at the tokens of highest covariance, (B, T).

    Formula: -ρ·A, plus β·|log ρ| at the k·N tokens, at least 1, of the highest
        (log π - mean log π)·(A - mean A)

    Source: arXiv:2505.22617 (The entropy mechanism), equations 13 and 14, with the penalty of its
        listing 1; in section 4.3 k is 2e-4 for 32B and 2e-3 for 7B, β is 1. verl's ``kl_cov``.

    Args:
        tokens: Of B completions; means are over the scored tokens of the micro-batch.
        kl_cov_ratio: k, the share of the tokens that is penalised.
        kl_cov_coef: β.

    Raises:
        ValueError: An option is out of range.
    """
    import torch

    require_range("kl_cov_ratio", kl_cov_ratio, at_least=0, at_most=1)
    require_range("kl_cov_coef", kl_cov_coef, at_least=0)
    count = int(tokens.mask.sum())
    held = torch.zeros_like(tokens.mask)
    if count:
        covariance = _covariance(tokens).masked_fill(~tokens.mask, -torch.inf)
        highest = covariance.flatten().topk(max(int(kl_cov_ratio * count), 1)).indices
        held.view(-1)[highest] = True
    penalty = kl_cov_coef * tokens.log_ratio.abs()
    loss = -tokens.ratio() * tokens.advantage
    return loss + torch.where(held, penalty, 0.0), {"clip_ratio/covariance_mean": held}


def _covariance(tokens: TokenLogps) -> Tensor:
    """Each token's part of the covariance of log-prob and advantage, (B, T), no gradient."""
    logps = tokens.logps.detach()
    advantage = tokens.advantage.expand_as(logps)
    count = tokens.mask.sum().clamp(min=1)
    return (logps - (logps * tokens.mask).sum() / count) * (
        advantage - (advantage * tokens.mask).sum() / count
    )
