"""A padded batch of rows laid out as a forest, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trl_deepseek.lm_head import IGNORED
from trl_deepseek.segments.forest import SHORTEST, Segment, ancestors, grow, trees
from trl_deepseek.segments.mask import SegmentMask
from trl_deepseek.segments.spans import Span

READ_APART = 0.75
"""The share of positions up to which the last layer is handed those alone that are read."""


@dataclass(frozen=True)
class Layout:
    """B rows of T tokens as R rows of L tokens that hold each shared segment once.

    Attributes:
        spans: The segments of each of the R rows, in order.
        input_ids: (R, L); padding is 0.
        position_ids: Of each token in the row that it came from, (R, L).
        copies: How many of the B rows each token stands for, (R, L); 0 for padding.
        place: For each token of the B rows its index in the R rows laid end to end, (B, T); for
            padding 0.
        real: Which tokens of the B rows are not padding, (B, T) bool.
    """

    spans: Sequence[Sequence[Span]]
    input_ids: Tensor
    position_ids: Tensor
    copies: Tensor
    place: Tensor
    real: Tensor

    @property
    def tokens(self) -> int:
        """Tokens that go through the model, padding too."""
        return self.input_ids.numel()

    def first(self, rows: int) -> Layout:
        """The same, with copies counted of the first ``rows`` of the B rows only."""
        counted = torch.zeros_like(self.copies).flatten()
        places = self.place[:rows][self.real[:rows]]
        counted.index_add_(0, places, torch.ones_like(places))
        return replace(self, copies=counted.view_as(self.copies))

    def mask(self, read: Tensor | None = None) -> SegmentMask:
        """Who sees whom, (R, 1, L, L).

        Args:
            read: Positions whose final states are read, (R, L) bool; None where all may be.
        """
        places = None if read is None else read.flatten().nonzero()[:, 0]
        if places is not None and len(places) > READ_APART * self.tokens:
            places = None
        return SegmentMask(self.spans, self.input_ids.shape[1], self.input_ids.device, places)

    def forth(self, labels: Tensor) -> Tensor:
        """The token that each position is to predict, (R, L), from labels (B, T), not shifted.

        A position is scored where any of the rows that it stands for is scored.
        """
        goal = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
        goal = goal.masked_fill(~self.real, IGNORED)
        scored = goal != IGNORED
        laid = torch.full((self.input_ids.numel(),), IGNORED, dtype=goal.dtype, device=goal.device)
        laid[self.place[scored]] = goal[scored]
        return laid.view_as(self.input_ids)

    def back(self, values: Tensor) -> Tensor:
        """What was found for each position, (R, L), for the rows that it stands for, (B, T)."""
        return values.flatten(0, 1)[self.place.to(values.device)]

    def scores(self, values: Tensor, labels: Tensor) -> Tensor:
        """Scores of next tokens, (R, L), as those of ``labels``, (B, T-1); else 0."""
        scored = (labels[:, 1:] != IGNORED) & self.real[:, :-1]
        zero = values.new_zeros(())
        return self.back(values)[:, :-1].where(scored.to(values.device), zero)


def lay_out(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    *,
    shortest: int = SHORTEST,
    one_row: bool = True,
) -> Layout | None:
    """The layout of a batch; None where a row is empty, or has padding between its tokens.

    Args:
        input_ids: (B, T).
        attention_mask: (B, T), 0 for padding, on either side; None for none.
        shortest: Tokens that a shared segment must have at least.
        one_row: Whether everything goes into one row, without padding; else each tree has one, as
            suits attention that forms every score of a row.
    """
    real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    real = real.bool()
    count = real.sum(dim=1)
    first = real.int().argmax(dim=1)
    last = first + count
    steps = torch.arange(real.shape[1], device=real.device)
    if not torch.equal(real, (steps >= first[:, None]) & (steps < last[:, None])):
        return None
    begins, counts = first.tolist(), count.tolist()
    if not all(counts):
        return None
    rows = [
        tokens[begin : begin + length]
        for tokens, begin, length in zip(input_ids.tolist(), begins, counts, strict=True)
    ]
    forest = grow(rows, shortest)
    tree_spans = list(trees(forest))
    row_trees = [tree_spans] if one_row else [[each] for each in tree_spans]
    return _laid(forest, row_trees, rows, real, first)


def _laid(
    forest: list[Segment],
    row_trees: list[list[range]],
    rows: list[list[int]],
    real: Tensor,
    first: Tensor,
) -> Layout:
    width = max(sum(len(forest[i]) for tree in row for i in tree) for row in row_trees)
    device = real.device
    ids, positions, copies = (
        torch.zeros(len(row_trees), width, dtype=torch.long) for _ in range(3)
    )
    place = torch.zeros(real.shape, dtype=torch.long)
    begins = first.tolist()
    spans: list[list[Span]] = []
    for number, row in enumerate(row_trees):
        start = 0
        made: list[Span] = []
        index_in_row: dict[int, int] = {}
        for index in (i for tree in row for i in tree):
            segment = forest[index]
            own = slice(start, start + len(segment))
            tokens = slice(segment.begin, segment.end)
            ids[number, own] = torch.tensor(rows[segment.rows[0]][tokens])
            positions[number, own] = torch.arange(segment.begin, segment.end)
            copies[number, own] = len(segment.rows)
            for member in segment.rows:
                begin = begins[member]
                place[member, begin + segment.begin : begin + segment.end] = torch.arange(
                    number * width + start, number * width + start + len(segment)
                )
            index_in_row[index] = len(made)
            context = tuple(index_in_row[each] for each in ancestors(forest, index))
            made.append(Span(len(segment), context))
            start = own.stop
        spans.append(made)

    ids, positions, copies, place = (e.to(device) for e in (ids, positions, copies, place))
    return Layout(spans, ids, positions, copies, place, real)
