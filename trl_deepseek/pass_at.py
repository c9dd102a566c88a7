"""The chance that one of k answers is right, from n answers of which c are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k), the unbiased estimator.

    Source: arXiv:2107.03374, equation 1.

    Args:
        n: Answers to one prompt.
        c: Those that are right.
        k: Answers that one tries, at most n.
    """
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def estimates(
    scores: Sequence[float | None], k: int | Sequence[int] = 1
) -> dict[str, float] | None:
    """The share of right answers, and ``pass_at_k`` for each k above 1.

    Args:
        scores: Of n answers to one prompt, 1.0 where right; None where nobody knows.
        k: One or several.

    Returns:
        None where the scores are not all known.
    """
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        return None
    right = sum(score == 1.0 for score in known)
    wanted = [k] if isinstance(k, int) else k
    more = {f"pass_at_{each}": pass_at_k(len(known), right, each) for each in wanted if each > 1}
    return {"": right / len(known), **more}


def check(options: Mapping[str, Any], num_samples: int) -> str | None:
    """What is wrong with the option ``k``, or None."""
    k = options["k"]
    for each in [k] if isinstance(k, int) and not isinstance(k, bool) else k:
        if not isinstance(each, int) or isinstance(each, bool) or each < 1:
            return f"k is {each!r}; it must be a whole number from 1"
        if each > num_samples:
            return f"k is {each}, and there are {num_samples} answers per prompt: --num_samples"
    return None
