"""Attention in a forest of segments, bfloat16: one layer's forward and backward pass.

Ours segment by segment and in one call, beside FlexAttention (compiled, its mask made beforehand
and timed apart), a dense mask, and the rows as they are, padded, without sharing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu import cells
from trl_deepseek.segments import SegmentMask, Span, varlen

HEADS, SIZE = 16, 128  # of the 1B shape
TINY = 16  # by which lengths are divided without a GPU


def forests() -> dict[str, list[Span]]:
    """One row each, by what it stands for."""
    lengths = torch.linspace(128, 1024, 16).round().int().tolist()
    part = 1 if cells.on_gpu() else TINY
    pairs = [Span(768 // part), Span(256 // part, (0,)), Span(256 // part, (0,))]
    return {
        "8 pairs, P 768 C 256": [
            Span(span.length, tuple(3 * pair + each for each in span.context))
            for pair in range(8)
            for span in pairs
        ],
        "8 completions, P 768 C 64": [Span(768 // part), *[Span(64 // part, (0,))] * 8],
        "16 documents of 128 to 1024": [Span(length // part) for length in lengths],
    }


def heads(rows: int, width: int) -> list[Any]:
    """Queries, keys and values, (rows, heads, width, size)."""
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "device": "cuda" if cells.on_gpu() else "cpu",
        "dtype": torch.bfloat16,
        "requires_grad": True,
    }
    return [torch.randn(rows, HEADS, width, SIZE, **options) for _ in range(3)]


def segment_mask(spans: list[Span]) -> SegmentMask:
    """Of one row."""
    width = sum(span.length for span in spans)
    return SegmentMask([spans], width, "cuda" if cells.on_gpu() else "cpu")


def by_segments(spans: list[Span]) -> Callable[..., Any]:
    """A call of attention for each segment."""
    mask = segment_mask(spans)
    takes = varlen.takes

    def call(query: Any, key: Any, value: Any) -> Any:
        varlen.takes = lambda *_: False
        try:
            return scaled_dot_product_attention(query, key, value, attn_mask=mask)
        finally:
            varlen.takes = takes

    return call


def in_one_call(spans: list[Span]) -> Callable[..., Any]:
    """What a GPU does in 16 bits."""
    mask = segment_mask(spans)
    return partial(scaled_dot_product_attention, attn_mask=mask)


def dense(spans: list[Span]) -> Callable[..., Any]:
    """A boolean mask over everything."""
    mask = segment_mask(spans).dense()
    return partial(scaled_dot_product_attention, attn_mask=mask)


def block_mask(spans: list[Span]) -> Any:
    """FlexAttention's, of the same pairs."""
    from torch.nn.attention.flex_attention import create_block_mask

    mask = segment_mask(spans)
    device, width = mask.device, mask.shape[-1]
    lengths = torch.tensor([span.length for span in spans])
    owner = torch.arange(len(spans)).repeat_interleave(lengths).to(device)
    seen = torch.eye(len(spans), dtype=torch.bool)
    for number, span in enumerate(spans):
        seen[number, list(span.context)] = True
    seen = seen.to(device)

    def sees(_: Any, __: Any, query: Any, key: Any) -> Any:
        return seen[owner[query], owner[key]] & (key <= query)

    return create_block_mask(sees, None, None, width, width, device=str(device))


def flex(spans: list[Span]) -> Callable[..., Any]:
    """FlexAttention; compiled where there is a GPU, without which it has no backward pass."""
    from torch.nn.attention.flex_attention import flex_attention

    mask = block_mask(spans)
    compiled: Any = torch.compile(flex_attention, dynamic=False)
    return lambda *inputs: compiled(*inputs, block_mask=mask)


def padded(spans: list[Span]) -> tuple[int, int]:
    """Rows, and tokens of each, of the batch that a forest stands for."""
    leaves = set(range(len(spans))) - {each for span in spans for each in span.context}
    lengths = [sum(spans[each].length for each in (*spans[leaf].context, leaf)) for leaf in leaves]
    return len(lengths), max(lengths)


WAYS: dict[str, Callable[..., Any]] = {
    "segment by segment": by_segments,
    "one call": in_one_call,
    "dense mask": dense,
    "FlexAttention": flex,
}


def cell(spans: list[Span], way: str) -> cells.Figures:
    """Seconds of a forward and backward pass, and the most bytes."""
    if way == "FlexAttention's mask":
        return {"seconds": cells.seconds(partial(block_mask, spans))}
    shape = (1, sum(span.length for span in spans))
    if way == "rows as they are":
        shape = padded(spans)
        call: Any = partial(scaled_dot_product_attention, is_causal=True)
    else:
        call = WAYS[way](spans)
    inputs = heads(*shape)

    def both() -> None:
        for each in inputs:
            each.grad = None
        call(*inputs).sum().backward()

    seconds = cells.seconds(both)
    held = torch.cuda.memory_allocated() if cells.on_gpu() else 0
    with cells.peak() as most:
        both()
    return {"seconds": seconds, **({"bytes": most["bytes"] - held} if most else {})}


def main() -> int:
    """Every cell; without a GPU all but FlexAttention's, which has no backward pass there."""
    ways = ["rows as they are", *WAYS, "FlexAttention's mask"]
    if not cells.on_gpu():
        ways = [way for way in ways if not way.startswith("Flex")]
    return cells.measure(
        {
            f"{name}, {way}": partial(cell, spans, way)
            for way in ways
            for name, spans in forests().items()
        }
    )


if __name__ == "__main__":
    sys.exit(main())
