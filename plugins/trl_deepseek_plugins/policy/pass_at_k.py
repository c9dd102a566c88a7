"""Advantages of training for one right answer among k."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from trl_deepseek import hookimpl
from trl_deepseek.policy import weighted_sum
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_advantages(register: Register) -> None:
    register("pass_at_k", pass_at_k, kl_in_reward=False)


def pass_at_k(
    scores: Tensor, weights: Tensor, k: int = 4, threshold: float = 1.0
) -> tuple[Tensor, dict[str, float]]:
    """The share that a completion has in one of k being right, (groups, G).

    Of n completions, all C(n, k) ways to draw k are groups of which the best counts; this is the
    mean advantage of the groups that a completion is in. A question that k tries nearly always
    solve teaches nearly nothing, a rare success much. Where fewer than k completions have a score,
    or pass@k is 0 or 1, it is 0.

    Formula: right: (1 - p)/σ,  wrong: (1 - p - C(w-1, k-1)/C(n-1, k-1))/σ,
        p = 1 - C(w, k)/C(n, k) for w wrong ones,  σ = √(p·(1 - p))

    Source: arXiv:2508.10751 (Pass@k training), section 2.4, equations 11 to 15.

    Args:
        scores: (groups, G, rewards).
        weights: (rewards,).
        k: Completions of which one is to be right, at least 1 and at most G.
        threshold: The weighted sum of rewards from which a completion is right.

    Raises:
        ValueError: k is out of range.
    """
    group = scores.size(1)
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k <= group:
        raise ValueError(f"k = {k!r}: it must be a whole number from 1 to num_generations, {group}")
    rewards = weighted_sum(scores, weights)
    advantages = rewards.new_zeros(rewards.shape)
    shares = []
    for row, found in zip(rewards, advantages, strict=True):
        known = ~row.isnan()
        right = (row >= threshold) & known
        n, wrong = int(known.sum()), int((known & ~right).sum())
        if n < k:
            continue
        share = 1 - math.comb(wrong, k) / math.comb(n, k)
        shares.append(share)
        deviation = math.sqrt(share * (1 - share))
        if deviation == 0:
            continue
        others = math.comb(wrong - 1, k - 1) / math.comb(n - 1, k - 1)
        found[known] = (1 - share - others) / deviation
        found[right] = (1 - share) / deviation
    return advantages, {"pass_at_k": sum(shares) / len(shares)} if shares else {}
