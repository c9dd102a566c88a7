"""Attention of all segments at once, by the kernel for sequences of varying length.

On a GPU each call of attention costs as much as many tokens do. FlashAttention takes sequences of
which each has queries and keys of its own number, laid end to end, and aligns what is causal at
their ends (Dao 2023, FlashAttention-2, and its ``flash_attn_varlen_func``): a segment is such a
sequence, its keys those of its ancestors and its own. So a forest is one call, for which keys and
values are gathered once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from trl_deepseek.segments.spans import Span, starts

WIDEST = 256
"""The largest head that the kernel takes; its size is a multiple of 8."""


@dataclass(frozen=True)
class Sequences:
    """The segments of rows laid end to end, as sequences of queries and keys.

    Attributes:
        queries: Index of each query in the rows laid end to end, (Tq,): all but padding.
        keys: The same of keys, (Tk,): for each segment its ancestors' and its own.
        query_ends: Where each sequence's queries begin, and where the last ends, (N + 1,) int32.
        key_ends: The same of its keys.
        longest: The most queries and the most keys of a sequence.
    """

    queries: Tensor
    keys: Tensor
    query_ends: Tensor
    key_ends: Tensor
    longest: tuple[int, int]


def sequences(rows: Sequence[Sequence[Span]], width: int, device: torch.device) -> Sequences:
    """Of the spans of each row of ``width`` tokens."""
    queries: list[Tensor] = []
    keys: list[Tensor] = []
    for number, spans in enumerate(rows):
        own = [
            torch.arange(span.length) + number * width + start
            for start, span in zip(starts(spans), spans, strict=True)
        ]
        queries += own
        keys += [
            torch.cat([own[each] for each in (*span.context, place)])
            for place, span in enumerate(spans)
        ]

    def bounds(parts: list[Tensor]) -> Tensor:
        found = list(accumulate(map(len, parts), initial=0))
        return torch.tensor(found, dtype=torch.int32, device=device)

    return Sequences(
        queries=torch.cat(queries).to(device),
        keys=torch.cat(keys).to(device),
        query_ends=bounds(queries),
        key_ends=bounds(keys),
        longest=(max(map(len, queries)), max(map(len, keys))),
    )


def takes(query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any]) -> bool:
    """Whether the kernel does: 16 bits, no dropout, heads of one size, Ampere or later."""
    head = query.shape[-1]
    return (
        query.is_cuda
        and {each.dtype for each in (query, key, value)} <= {torch.bfloat16, torch.float16}
        and key.shape == value.shape
        and query.shape[:2] == key.shape[:2]
        and head == key.shape[-1]
        and head % 8 == 0
        and head <= WIDEST
        and not options.get("dropout_p")
        and torch.backends.cuda.flash_sdp_enabled()
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def attend(
    query: Tensor, key: Tensor, value: Tensor, found: Sequences, scale: float | None
) -> Tensor:
    """Attention (R, heads, L, D), 0 for padding, from (R, heads, L, D) each."""
    from torch.nn.attention.varlen import varlen_attn  # prepares its kernels when it is imported

    rows, _, width, _ = query.shape
    flat = [each.transpose(1, 2).flatten(0, 1) for each in (query, key, value)]
    whole = len(found.queries) == rows * width
    result = varlen_attn(
        flat[0] if whole else flat[0].index_select(0, found.queries),
        flat[1].index_select(0, found.keys),
        flat[2].index_select(0, found.keys),
        found.query_ends,
        found.key_ends,
        *found.longest,
        scale=scale,
        window_size=(-1, 0),
    )
    assert isinstance(result, Tensor)
    if not whole:
        result = torch.zeros_like(flat[0]).index_copy(0, found.queries, result)
    return result.unflatten(0, (rows, width)).transpose(1, 2)
