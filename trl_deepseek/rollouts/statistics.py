"""What the scores of a reward look like, in plain numbers that JSON can hold."""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Sequence
from typing import Any

from trl_deepseek.rollouts.trial import Trial
from trl_deepseek.workers.calls import Failure

BINS = 10


def summarise(trial: Trial, groups: Sequence[Hashable] | None = None) -> dict[str, Any]:
    """Everything about one reward.

    Args:
        trial: Its outcomes.
        groups: The group of samples of one prompt that each sample belongs to.

    Returns:
        ``name``, ``samples``, ``scored``, ``abstained``, ``failed``; ``mean``, ``std``
        (population), ``min``, ``max`` of the scores, None without any; ``histogram``, a list of
        ``{"from", "to", "count"}``; ``p50_ms`` and ``p99_ms`` per sample; ``first_failure``, None
        or ``{"sample", "message", "traceback"}``; ``groups``, ``zero_variance_groups`` and
        ``zero_variance_share``, None where groups are not known.
    """
    scores = scored(trial)
    known = [value for value in scores if value is not None]
    failures = [(i, o) for i, o in enumerate(trial.outcomes) if isinstance(o, Failure)]
    first = None
    if failures:
        sample, failure = failures[0]
        first = {"sample": sample, "message": failure.message, "traceback": failure.detail}
    return {
        "name": trial.name,
        "samples": len(scores),
        "scored": len(known),
        "abstained": len(scores) - len(known) - len(failures),
        "failed": len(failures),
        "mean": mean(known),
        "std": deviation(known),
        "min": min(known, default=None),
        "max": max(known, default=None),
        "histogram": histogram(known),
        "p50_ms": 1000 * quantile(trial.seconds, 0.50),
        "p99_ms": 1000 * quantile(trial.seconds, 0.99),
        "first_failure": first,
        **zero_variance(scores, groups),
    }


def scored(trial: Trial) -> list[float | None]:
    """The scores, None where there is none for whatever reason."""
    return [None if isinstance(o, Failure) else o for o in trial.outcomes]


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return statistics.fmean(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """The population's standard deviation, or None of nothing."""
    return statistics.pstdev(values) if values else None


def histogram(values: Sequence[float]) -> list[dict[str, float]]:
    """Counts per value where there are few distinct ones, else in ten equal bins."""
    distinct = sorted(set(values))
    if len(distinct) <= BINS:
        return [{"from": v, "to": v, "count": values.count(v)} for v in distinct]
    low, width = distinct[0], (distinct[-1] - distinct[0]) / BINS
    counts = [0] * BINS
    for value in values:
        counts[min(BINS - 1, int((value - low) / width))] += 1
    return [
        {"from": low + i * width, "to": low + (i + 1) * width, "count": count}
        for i, count in enumerate(counts)
    ]


def quantile(values: Sequence[float], share: float) -> float:
    """The least value that at least ``share`` of all do not exceed; 0.0 of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def zero_variance(
    scores: Sequence[float | None], groups: Sequence[Hashable] | None
) -> dict[str, float | None]:
    """How many groups of two or more scores there are, and in how many (and what share) all agree.

    Such a group teaches GRPO nothing.
    """
    if groups is None:
        return dict.fromkeys(("groups", "zero_variance_groups", "zero_variance_share"))
    members: dict[Hashable, list[float]] = {}
    for group, value in zip(groups, scores, strict=True):
        if value is not None:
            members.setdefault(group, []).append(value)
    several = [values for values in members.values() if len(values) > 1]
    flat = sum(len(set(values)) == 1 for values in several)
    share = flat / len(several) if several else None
    return {
        "groups": len(several),
        "zero_variance_groups": flat,
        "zero_variance_share": share,
    }


def correlation(left: Sequence[float | None], right: Sequence[float | None]) -> float | None:
    """Pearson's, over the samples that both scored; None where one of them is constant there."""
    pairs = [(a, b) for a, b in zip(left, right, strict=True) if a is not None and b is not None]
    try:
        return max(-1.0, min(1.0, statistics.correlation(*zip(*pairs, strict=True))))
    except (statistics.StatisticsError, TypeError):  # one is constant, or there are no pairs
        return None


def group_advantages(
    totals: Sequence[float | None], groups: Sequence[Hashable], eps: float = 1e-4
) -> list[float | None]:
    """Total rewards standardised within each group, as GRPO does; None without a total.

    Source: arXiv:2402.03300, section 4.1.2, with TRL's ``eps`` and sample standard deviation.
    """
    members: dict[Hashable, list[float]] = {}
    for group, total in zip(groups, totals, strict=True):
        if total is not None:
            members.setdefault(group, []).append(total)
    centres = {group: statistics.fmean(values) for group, values in members.items()}
    spreads = {
        group: statistics.stdev(values) if len(values) > 1 else 0.0
        for group, values in members.items()
    }
    return [
        None if total is None else (total - centres[group]) / (spreads[group] + eps)
        for group, total in zip(groups, totals, strict=True)
    ]
