"""Rows of tokens as a forest of segments: what several rows begin with is there once.

A segment is a run of tokens that continues its parent. Rows that begin alike share segments and
part where they differ; each row is the way from a root to a leaf. The last token before a parting
predicts another token on each branch, so every branch begins with a copy of it: then each position
has one next token, and whoever scores next tokens needs to know nothing of segments.

    rows    a b c d e      a b c x        segments   [a b] -> [c d e]
                                                           -> [c x]
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SHORTEST = 16
"""Tokens below which a shared run is not worth a segment: it costs an attention call per layer."""


@dataclass(frozen=True)
class Segment:
    """Tokens ``begin`` to ``end`` of each of ``rows``, which agree up to ``end``.

    Attributes:
        begin: Position of the first token in its rows, from 0.
        end: Position after the last one.
        parent: Index of the segment that it continues in the forest, which is before it; None for
            a root.
        rows: The rows that it is part of.
    """

    begin: int
    end: int
    parent: int | None
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return self.end - self.begin


def grow(rows: Sequence[list[int]], shortest: int = SHORTEST) -> list[Segment]:
    """The forest of ``rows``, parents before children, each tree in one piece.

    Args:
        rows: Tokens without padding, none of them empty.
        shortest: Tokens that a shared segment must have at least, from 1.
    """
    forest: list[Segment] = []

    def add(begin: int, end: int, parent: int | None, members: Sequence[int]) -> int:
        forest.append(Segment(begin, end, parent, tuple(members)))
        return len(forest) - 1

    def branch(members: Sequence[int], begin: int, parent: int | None) -> None:
        common = _in_common([rows[member] for member in members])
        if all(len(rows[member]) == common for member in members):
            add(begin, common, parent, members)
            return
        end = common - 1  # the token before the parting goes to each branch
        if end - begin >= shortest:
            begin, parent = end, add(begin, end, parent, members)
        parted: dict[int | None, list[int]] = {}
        for member in members:
            row = rows[member]
            parted.setdefault(row[common] if common < len(row) else None, []).append(member)
        for each in parted.values():
            branch(each, begin, parent)

    branch(range(len(rows)), 0, None)
    return forest


def _in_common(rows: Sequence[list[int]]) -> int:
    """How many tokens all rows begin with: as many as the first and the last in order do."""
    first, last = min(rows), max(rows)
    pairs = enumerate(zip(first, last, strict=False))
    return next((place for place, (a, b) in pairs if a != b), len(first))


def ancestors(forest: Sequence[Segment], index: int) -> list[int]:
    """The segments that segment ``index`` continues, from the root on, without itself."""
    found = []
    parent = forest[index].parent
    while parent is not None:
        found.append(parent)
        parent = forest[parent].parent
    return found[::-1]


def trees(forest: Sequence[Segment]) -> Iterator[range]:
    """The segments of each tree, by index."""
    roots = [index for index, segment in enumerate(forest) if segment.parent is None]
    return itertools.starmap(range, itertools.pairwise([*roots, len(forest)]))
