"""Arithmetic on scores in which NaN says that a reward abstained; for advantages to call."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def weighted_sum(scores: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum over rewards, (..., rewards) -> (...); NaN where all of them abstained."""
    total = (scores * weights).nansum(dim=-1)
    return total.masked_fill(scores.isnan().all(dim=-1), float("nan"))


def mean(values: Tensor, dim: int | None = None) -> Tensor:
    """Mean of what is not NaN; over ``dim``, which is kept, or over everything."""
    return values.nanmean() if dim is None else values.nanmean(dim=dim, keepdim=True)


def std(values: Tensor, dim: int | None = None) -> Tensor:
    """Sample standard deviation (n - 1) of what is not NaN; 0 where that is fewer than two."""
    known = ~values.isnan()
    centred = (values - mean(values, dim)).nan_to_num(nan=0.0)
    if dim is None:
        squares, count = (centred**2).sum(), known.sum()
    else:
        squares, count = (centred**2).sum(dim, keepdim=True), known.sum(dim, keepdim=True)
    return (squares / (count - 1).clamp(min=1)).sqrt()
