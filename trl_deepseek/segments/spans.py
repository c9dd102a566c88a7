"""Where segments lie in a row of a laid-out batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Span:
    """Where a segment lies in its row of the laid-out batch, and what it continues.

    Attributes:
        length: Tokens.
        context: Indices, in the row, of the spans that it continues, from the root on.
    """

    length: int
    context: tuple[int, ...] = ()


def starts(spans: Sequence[Span]) -> list[int]:
    """Where each begins; they fill a row from its beginning."""
    return list(accumulate((span.length for span in spans), initial=0))[:-1]
