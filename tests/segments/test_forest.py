"""Properties of segments on their own: any rows, lengths, padding and truncation."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from trl_deepseek.lm_head import IGNORED
from trl_deepseek.segments import SegmentMask, Span, lay_out, varlen
from trl_deepseek.segments.forest import ancestors, grow

# few tokens, so that rows often begin alike
ROWS = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=12), min_size=1, max_size=7)
SHORTEST = st.integers(1, 4)


@st.composite
def batches(draw: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded rows, on the left, on the right or on both sides."""
    rows = draw(ROWS)
    before = [draw(st.integers(0, 3)) for _ in rows]
    width = max(len(row) + left for row, left in zip(rows, before, strict=True))
    ids, mask = torch.zeros(2, len(rows), width, dtype=torch.long)
    for number, (row, left) in enumerate(zip(rows, before, strict=True)):
        ids[number, left : left + len(row)] = torch.tensor(row)
        mask[number, left : left + len(row)] = 1
    return ids, mask


@given(ROWS, SHORTEST)
@settings(max_examples=60, deadline=None)
def test_each_row_is_the_way_from_a_root_to_a_leaf(rows: list[list[int]], shortest: int) -> None:
    forest = grow(rows, shortest)
    for number, row in enumerate(rows):
        leaf = max(i for i, segment in enumerate(forest) if number in segment.rows)
        way = [*ancestors(forest, leaf), leaf]
        assert way == [i for i, segment in enumerate(forest) if number in segment.rows]
        spans = [(forest[i].begin, forest[i].end) for i in way]
        assert spans[0][0] == 0
        assert spans[-1][1] == len(row)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))


@given(ROWS, SHORTEST)
@settings(max_examples=60, deadline=None)
def test_rows_of_a_segment_agree_up_to_its_end_and_on_what_follows_each_token(
    rows: list[list[int]], shortest: int
) -> None:
    for segment in grow(rows, shortest):
        first = rows[segment.rows[0]]
        for member in segment.rows:
            assert rows[member][: segment.end] == first[: segment.end]
            following = slice(segment.begin + 1, segment.end + 1)
            assert rows[member][following] == first[following]


@given(batches(), SHORTEST, st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_token_finds_itself_its_position_and_its_label(
    batch: tuple[torch.Tensor, torch.Tensor], shortest: int, one_row: bool
) -> None:
    ids, mask = batch
    layout = lay_out(ids, mask, shortest=shortest, one_row=one_row)
    assert layout is not None
    real = mask.bool()
    assert torch.equal(layout.back(layout.input_ids)[real], ids[real])
    assert torch.equal(layout.back(layout.position_ids)[real], (mask.cumsum(1) - 1)[real])
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[::2, ::2] = IGNORED  # some rows are scored where others are not
    found = layout.back(layout.forth(labels))[:, :-1]
    scored = (labels[:, 1:] != IGNORED) & real[:, :-1]
    assert torch.equal(found[scored], labels[:, 1:][scored])
    assert int(layout.copies.sum()) == int(mask.sum())


def one_sequence_after_the_other(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: torch.Tensor,
    key_ends: torch.Tensor,
    longest_query: int,
    longest_key: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
) -> torch.Tensor:
    """What FlashAttention's README says of sequences laid end to end, in plain math.

    (tokens, heads, size) each; causal, aligned at the last query and the last key of a sequence.
    """
    assert window_size == (-1, 0)
    assert {query_ends.dtype, key_ends.dtype} == {torch.int32}
    found = torch.full_like(query, torch.nan)
    asked = list(itertools.pairwise(query_ends.tolist()))
    seen = list(itertools.pairwise(key_ends.tolist()))
    assert longest_query == max(end - start for start, end in asked)
    assert longest_key == max(end - start for start, end in seen)
    for (start, end), (first, last) in zip(asked, seen, strict=True):
        for place in range(start, end):
            keys = slice(first, last - (end - 1 - place))
            scores = torch.einsum("hd,khd->hk", query[place], key[keys])
            scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
            found[place] = torch.einsum("hk,khd->hd", scores.softmax(-1), value[keys])
    return found


@given(batches(), SHORTEST, st.booleans())
@settings(max_examples=40, deadline=None)
def test_attention_by_segments_is_attention_row_by_row(
    batch: tuple[torch.Tensor, torch.Tensor], shortest: int, one_row: bool
) -> None:
    ids, mask = batch
    layout = lay_out(ids, mask, shortest=shortest, one_row=one_row)
    assert layout is not None
    segments = layout.mask()
    random = torch.Generator().manual_seed(0)
    # a state for each token and position: rows that agree have the same
    table = torch.randn(3, 4, 16, 2, 4, generator=random, dtype=torch.float64)
    q, k, v = (part[layout.input_ids, layout.position_ids].transpose(1, 2) for part in table)
    masks = (segments, segments.dense(), segments.additive(torch.float64))
    ways = [scaled_dot_product_attention(q, k, v, attn_mask=each) for each in masks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.attention.varlen.varlen_attn", one_sequence_after_the_other)
        ways.append(varlen.attend(q, k, v, segments.sequences, None))
    for together in ways:
        found = layout.back(together.transpose(1, 2))
        for number, row in enumerate(ids):
            own = row[mask[number].bool()]
            positions = torch.arange(len(own))
            one, two, three = (part[own, positions].transpose(0, 1)[None] for part in table)
            alone = scaled_dot_product_attention(one, two, three, is_causal=True)[0].transpose(0, 1)
            torch.testing.assert_close(found[number][mask[number].bool()], alone)


def test_torch_takes_all_segments_in_one_call_and_gives_it_gradients() -> None:
    """By torch's own declaration of the call, which needs no GPU; what it computes does."""
    spans = [[Span(7), Span(3, (0,)), Span(2, (0, 1))], [Span(4)]]
    found = varlen.sequences(spans, 12, torch.device("meta"))
    inputs = [
        torch.empty(2, 3, 12, 16, device="meta", dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    ]
    result = varlen.attend(inputs[0], inputs[1], inputs[2], found, 0.5)
    assert (result.shape, result.dtype) == (inputs[0].shape, torch.bfloat16)
    result.sum().backward()
    assert all(each.grad is not None and each.grad.shape == each.shape for each in inputs)


def test_what_rows_begin_with_is_there_once() -> None:
    prompt = list(range(100, 140))
    rows = [[*prompt, 1, 2, 3], [*prompt, 4, 5], [*prompt, 1, 2, 3], [7, 8]]
    ids = torch.zeros(4, 43, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
    layout = lay_out(ids, mask)
    assert layout is not None
    # 39 of the prompt, its last token before each of two completions, a row that is alone
    assert layout.input_ids.shape == (1, 39 + 4 + 3 + 2)
    assert layout.copies[0].tolist() == [3] * 39 + [2] * 4 + [1] * 3 + [1] * 2


def test_a_batch_with_padding_between_its_tokens_or_an_empty_row_has_no_layout() -> None:
    ids = torch.ones(2, 3, dtype=torch.long)
    assert lay_out(ids, torch.tensor([[1, 0, 1], [1, 1, 1]])) is None
    assert lay_out(ids, torch.tensor([[0, 0, 0], [1, 1, 1]])) is None


def test_a_mask_that_meets_another_operation_is_the_dense_one() -> None:
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 5, 6]])
    layout = lay_out(ids, None, shortest=1)
    assert layout is not None
    mask = layout.mask()
    assert isinstance(mask, SegmentMask)
    assert torch.equal(torch.logical_not(mask), ~mask.dense())
    scores = torch.zeros(1, 1, *mask.shape[-2:])
    assert torch.equal(scores + mask == 0, mask.dense())
