"""How sure a number about a model is: bootstrap over the prompts, paired where models are compared.

Each prompt (or row) has one value, or a few numbers that are added up over prompts before they
become one. Percentile intervals at 95 %; the same seed gives the same interval. Source: Efron and
Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy

from trl_deepseek.types import Estimate

RESAMPLES = 2000
AT_ONCE = 2_000_000  # values drawn at a time
ROUNDING = 1e-13  # of two sums of the same numbers in another order, relative to them

Unit = Mapping[str, float] | None
Aggregate = Callable[[Mapping[str, float]], float | Mapping[str, float]]
Array = numpy.ndarray[Any, numpy.dtype[numpy.float64]]


def parts_of(units: Sequence[Unit], aggregate: Aggregate | None) -> list[str]:
    """The names of the numbers that a metric gives; ``""`` where it is one."""
    if aggregate is None:
        return list(dict.fromkeys(part for unit in units if unit is not None for part in unit))
    counted = [unit for unit in units if unit is not None]
    return list(_named(aggregate(_sums(counted)))) if counted else []


def number(units: Sequence[Unit], part: str, aggregate: Aggregate | None) -> float:
    """One number over prompts, of which some have a value; see :func:`estimate`."""
    counted = [u for u in units if u is not None and (aggregate is not None or part in u)]
    return _value(counted, part, aggregate)


def estimate(
    units: Sequence[Unit], part: str, aggregate: Aggregate | None, seed: int
) -> Estimate | None:
    """One number over prompts and its interval; None where every prompt abstained.

    Args:
        units: For each prompt its value by part, or what is added up; None where it abstained.
        part: Which number.
        aggregate: Makes the numbers from the sums; None for the mean.
        seed: Of the resampling.
    """
    counted = [u for u in units if u is not None and (aggregate is not None or part in u)]
    if not counted:
        return None
    value = _value(counted, part, aggregate)
    low, high = _interval([counted], part, aggregate, seed)
    return Estimate(value, low, high, len(counted))


def difference(
    a: Sequence[Unit], b: Sequence[Unit], part: str, aggregate: Aggregate | None, seed: int
) -> Estimate | None:
    """What ``b`` has more than ``a`` over the same prompts, where neither abstained.

    Args:
        a: As in :func:`estimate`, and so are the others.
        b: Likewise, of the other model.
        part: Likewise.
        aggregate: Likewise.
        seed: Likewise.
    """
    both = [
        (x, y)
        for x, y in zip(a, b, strict=True)
        if x is not None and y is not None and (aggregate is not None or (part in x and part in y))
    ]
    if not both:
        return None
    first, second = [x for x, _ in both], [y for _, y in both]
    less, more = _value(first, part, aggregate), _value(second, part, aggregate)
    rounding = ROUNDING * max(abs(less), abs(more))

    def exact(found: float | None) -> float | None:
        return 0.0 if found is not None and abs(found) <= rounding else found

    low, high = _interval([second, first], part, aggregate, seed)
    value = 0.0 if abs(more - less) <= rounding else more - less
    return Estimate(value, exact(low), exact(high), len(both))


def _value(units: Sequence[Mapping[str, float]], part: str, aggregate: Aggregate | None) -> float:
    if aggregate is None:
        return float(numpy.mean([unit[part] for unit in units]))
    return _named(aggregate(_sums(units)))[part]


def _interval(
    sides: Sequence[Sequence[Mapping[str, float]]],
    part: str,
    aggregate: Aggregate | None,
    seed: int,
) -> tuple[float | None, float | None]:
    """The interval of a number of one side, or of that of the first less that of the second."""
    from scipy.stats import bootstrap

    count = len(sides[0])
    if count < 2:
        return None, None
    names = [part] if aggregate is None else list(sides[0][0])
    columns = [
        numpy.array([unit[n] for unit in side], dtype=float) for side in sides for n in names
    ]

    def of_side(sums: Array) -> Array:
        """(..., names) -> (...)."""
        if aggregate is None:
            return sums[..., 0] / count
        flat = sums.reshape(-1, len(names))
        found = [_named(aggregate(dict(zip(names, row, strict=True))))[part] for row in flat]
        return numpy.array(found).reshape(sums.shape[:-1])

    def statistic(*values: Array, axis: int = -1) -> Array:
        sums = numpy.stack([value.sum(axis=axis) for value in values], axis=-1)
        first = of_side(sums[..., : len(names)])
        return first if len(sides) == 1 else first - of_side(sums[..., len(names) :])

    found = bootstrap(
        columns,
        statistic,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=RESAMPLES,
        batch=max(1, AT_ONCE // (count * len(columns))),
        rng=numpy.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _sums(units: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(sum(unit[name] for unit in units)) for name in units[0]}


def _named(value: float | Mapping[str, float]) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {name: float(number) for name, number in value.items()}
    return {"": float(value)}
