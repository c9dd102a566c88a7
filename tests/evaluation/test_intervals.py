from __future__ import annotations

import numpy
import pytest
from scipy import stats

from trl_deepseek.evaluation import intervals
from trl_deepseek.types import Estimate


def units(values: list[float | None]) -> list[dict[str, float] | None]:
    return [None if value is None else {"": value} for value in values]


def test_the_interval_of_a_mean_is_that_of_students_t() -> None:
    values = numpy.random.default_rng(0).normal(2.0, 3.0, size=400).tolist()
    low, high = stats.t.interval(
        0.95, len(values) - 1, loc=numpy.mean(values), scale=stats.sem(values)
    )
    found = intervals.estimate(units(values), "", None, seed=0)
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(numpy.mean(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)
    assert found == intervals.estimate(units(values), "", None, seed=0)
    assert found != intervals.estimate(units(values), "", None, seed=1)


def test_what_abstained_is_not_counted() -> None:
    found = intervals.estimate(units([1.0, None, 0.0, None]), "", None, seed=0)
    assert found is not None
    assert (found.value, found.count) == (0.5, 2)
    assert intervals.estimate(units([None, None]), "", None, seed=0) is None


def test_one_row_has_no_interval() -> None:
    assert intervals.estimate(units([0.5]), "", None, seed=0) == Estimate(0.5, None, None, 1)


def test_a_paired_difference_is_surer_than_two_intervals() -> None:
    random = numpy.random.default_rng(1)
    a = random.normal(0.0, 10.0, size=200)
    b = a + random.normal(1.0, 0.5, size=200)  # far less noise between the two than in either
    low, high = stats.t.interval(0.95, 199, loc=numpy.mean(b - a), scale=stats.sem(b - a))
    found = intervals.difference(units(a.tolist()), units(b.tolist()), "", None, seed=0)
    assert found is not None
    assert found.value == pytest.approx(float(numpy.mean(b - a)))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


def test_a_difference_is_over_the_rows_that_both_have() -> None:
    found = intervals.difference(units([1.0, None, 0.0]), units([1.0, 1.0, None]), "", None, 0)
    assert found == Estimate(0.0, None, None, 1)


def test_a_number_made_of_sums_is_resampled_as_sums() -> None:
    random = numpy.random.default_rng(2)
    lengths = random.integers(1, 20, size=300)
    totals = lengths * random.normal(2.0, 0.5, size=300)
    rows = [{"total": float(t), "count": float(n)} for t, n in zip(totals, lengths, strict=True)]
    found = intervals.estimate(rows, "", lambda sums: sums["total"] / sums["count"], seed=0)
    assert found is not None
    ratio = totals.sum() / lengths.sum()
    # The delta method for a ratio of sums.
    spread = 1.96 * numpy.std(totals - ratio * lengths, ddof=1) * 300**0.5 / lengths.sum()
    assert found.value == pytest.approx(ratio)
    assert (found.low, found.high) == pytest.approx((ratio - spread, ratio + spread), abs=0.01)


def test_the_same_values_in_another_order_differ_by_nothing() -> None:
    a = [0.6, 0.8, 0.93, 1.0, 0.1, 0.2, 0.3, 0.7, 1 / 3, 2 / 3]
    b = next(
        tried
        for tried in (numpy.random.default_rng(n).permutation(a) for n in range(1000))
        if numpy.mean(tried) != numpy.mean(a)
    )
    found = intervals.difference(units([*a]), units(b.tolist()), "", None, seed=0)
    assert found is not None
    assert found.value == 0.0
