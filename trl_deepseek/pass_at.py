"""Several answers to a prompt: how likely is one of k right?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def pass_at_k(
    scores: Sequence[float | None], k: int | Sequence[int] = 1, threshold: float = 1.0
) -> float | dict[str, float] | None:
    """Probability that one of k answers is right, estimated without bias from the n that there are.

    The judge is any reward, ``exact_match`` unless the option ``judge`` names another. Answers that
    it abstains from do not count; a prompt with fewer than k others abstains.

    Formula: 1 - C(n - c, k) / C(n, k), with c right answers of n

    Range: 0 to 1.

    Source: arXiv:2107.03374, equation 1.

    Args:
        scores: Of the answers to one prompt.
        k: One number, or several.
        threshold: The score from which an answer is right.
    """
    right = [score >= threshold for score in scores if score is not None]
    return by_k(k, len(right), lambda each: _any_right(len(right), sum(right), each))


def check(options: Mapping[str, Any], num_samples: int) -> str | None:
    """What is wrong with the options: k must be whole numbers up to the answers per prompt."""
    threshold = options.get("threshold", 1.0)
    if not isinstance(threshold, (int, float)) or isinstance(threshold, bool):
        return f"threshold is {threshold!r}; it must be a number"
    given = options["k"]
    for k in [] if given is None else given if isinstance(given, (list, tuple)) else [given]:
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            return f"k is {k!r}; it must be a whole number from 1, or several"
        if k > num_samples:
            return (
                f"k is {k}, and num_samples is {num_samples}: there are not so many answers\n"
                f"  add --num_samples {k}, or more for a surer estimate"
            )
    return "k is empty" if given == [] else None


def by_k(
    k: int | Sequence[int], known: int, value: Callable[[int], float]
) -> float | dict[str, float] | None:
    """The value for k, or for each of several; None where there are fewer answers than k.

    Args:
        k: One number, or several.
        known: Answers that are known to be right or wrong.
        value: Of one k.
    """
    if isinstance(k, int):
        return value(k) if k <= known else None
    return {str(each): value(each) for each in k if each <= known} or None


def _any_right(count: int, right: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k) as a product, which does not overflow."""
    if count - right < k:
        return 1.0
    return 1.0 - math.prod(1 - k / i for i in range(count - right + 1, count + 1))
