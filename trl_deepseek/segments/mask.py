"""Attention inside a forest of segments, without the mask over everything.

A token sees the segments that its own continues, and its own up to itself. As a dense mask that
would be L x L for a row of L tokens, nearly all of it false. :class:`SegmentMask` stands for that
mask: models hand it on as they hand on any 4-D mask, and where it arrives at torch's
``scaled_dot_product_attention`` each segment attends to its ancestors' keys and its own: in a call
of its own, or, on a GPU in 16 bits, all in one (:mod:`~trl_deepseek.segments.varlen`). Wherever
else it arrives, it turns into the dense mask that it stands for: additive where it is added to
floating-point scores, as eager attention does, else boolean.

As it travels as an argument, layers that gradient checkpointing runs again in the backward pass
find it again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from trl_deepseek.segments import varlen
from trl_deepseek.segments.spans import Span, starts

# What only looks at the mask's outside.
_HARMLESS = {
    Tensor.dim, Tensor.size, Tensor.numel, Tensor.is_floating_point, torch.is_floating_point,
    Tensor.shape.__get__, Tensor.dtype.__get__, Tensor.device.__get__, Tensor.ndim.__get__,  # type: ignore[attr-defined]
    Tensor.requires_grad.__get__, Tensor.is_leaf.__get__, Tensor.layout.__get__,  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__, Tensor.__len__,  # type: ignore[attr-defined]
}  # fmt: skip
_SUMS = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, Tensor.add_, Tensor.__iadd__}


class SegmentMask(Tensor):
    """A boolean attention mask, (R, 1, L, L), true where a token is seen; see the module.

    Attributes:
        spans: Of each row; they fill it from its beginning, and what is left is padding.
        places: Of the positions whose final states are read, among the R x L laid end to end, (N,);
            None where all may be (:mod:`~trl_deepseek.segments.reading`).
    """

    spans: Sequence[Sequence[Span]]
    places: Tensor | None
    is_last: bool = False
    device_: torch.device

    @staticmethod
    def __new__(
        cls,
        spans: Sequence[Sequence[Span]],
        width: int,
        device: Any,
        places: Tensor | None = None,
    ) -> SegmentMask:
        """Of rows of ``width`` tokens."""
        shape = (len(spans), 1, width, width)
        made = Tensor._make_wrapper_subclass(cls, shape, dtype=torch.bool, device=device)
        made.spans, made.places, made.device_ = spans, places, torch.device(device)
        return made

    def __init__(self, *_: Any) -> None:
        super().__init__()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"SegmentMask({[[span.length for span in row] for row in self.spans]})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Attend by segments, or act as the dense mask."""
        kwargs = kwargs or {}
        if func in _HARMLESS:
            return super().__torch_function__(func, types, args, kwargs)
        if func is scaled_dot_product_attention and type(kwargs.get("attn_mask")) is cls:
            return _attend(*args, **kwargs)
        others = [each for each in (*args, *kwargs.values()) if type(each) is not cls]
        scores = next((o for o in others if isinstance(o, Tensor) and o.is_floating_point()), None)
        if func in _SUMS and scores is not None:
            args = [e.additive(scores.dtype) if type(e) is cls else e for e in args]
        else:
            args = [each.dense() if type(each) is cls else each for each in args]
            kwargs = {n: e.dense() if type(e) is cls else e for n, e in kwargs.items()}
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """There is nothing in memory to look at; whoever comes here has gone around us."""
        if func is torch.ops.aten.detach.default:
            return args[0]
        raise RuntimeError(f"{func} cannot read an attention mask by segments")

    @functools.cached_property
    def _dense(self) -> Tensor:
        rows, _, width, _ = self.shape
        mask = torch.eye(width, dtype=torch.bool).repeat(rows, 1, 1, 1)  # padding sees itself
        for row, spans in enumerate(self.spans):
            begins = starts(spans)
            for start, span in zip(begins, spans, strict=True):
                own = slice(start, start + span.length)
                mask[row, 0, own, own] = torch.ones(span.length, span.length).tril().bool()
                for each in span.context:
                    seen = slice(begins[each], begins[each] + spans[each].length)
                    mask[row, 0, own, seen] = True
        return mask.to(self.device_)

    @functools.cached_property
    def sequences(self) -> varlen.Sequences:
        """The segments as sequences of queries and keys."""
        return varlen.sequences(self.spans, self.shape[-1], self.device_)

    @functools.cached_property
    def last(self) -> SegmentMask:
        """The same for the layer whose values have readers at :attr:`places` alone."""
        made = SegmentMask(self.spans, self.shape[-1], self.device_, self.places)
        made.__dict__.update(self.__dict__)  # what is worked out already
        made.is_last = True
        return made

    def unread(self, row: int) -> list[bool]:
        """Which segments of a row attend for nobody."""
        spans, width = self.spans[row], self.shape[-1]
        if not self.is_last or self.places is None:
            return [False] * len(spans)
        read = torch.zeros(self.shape[0] * width, dtype=torch.bool, device=self.places.device)
        read[self.places] = True
        parts = read.view(-1, width)[row].tolist()
        begins = starts(spans)
        return [
            not any(parts[begin : begin + span.length])
            for begin, span in zip(begins, spans, strict=True)
        ]

    def dense(self) -> Tensor:
        """The mask that this one stands for, (R, 1, L, L) bool."""
        return self._dense

    def additive(self, dtype: torch.dtype) -> Tensor:
        """The same to be added to scores: 0 where a token is seen, else the dtype's least."""
        held: tuple[torch.dtype, Tensor] | None = self.__dict__.get("_additive")
        if held is None or held[0] != dtype:
            zero = torch.zeros((), dtype=dtype, device=self.device_)
            held = self._additive = dtype, zero.where(self._dense, torch.finfo(dtype).min)
        return held[1]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: SegmentMask,
    **options: Any,
) -> Tensor:
    """Attention by segments, (R, heads, L, D), from (R, heads, L, D) each."""
    options.pop("is_causal", None)
    if varlen.takes(query, key, value, options):
        return varlen.attend(query, key, value, attn_mask.sequences, options.get("scale"))
    rows = []
    for row, spans in enumerate(attn_mask.spans):
        q, k, v = (each[row : row + 1] for each in (query, key, value))
        rows.append(_attend_row(q, k, v, spans, attn_mask.unread(row), **options))
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _attend_row(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    spans: Sequence[Span],
    unread: list[bool],
    **options: Any,
) -> Tensor:
    # split, whose gradient is one concatenation: that of slices would be a whole row for each
    lengths = [span.length for span in spans]
    rest = query.shape[2] - sum(lengths)
    queries, keys, values = (each.split([*lengths, rest], dim=2) for each in (query, key, value))
    found = []
    for own, span in enumerate(spans):
        if unread[own]:
            found.append(_zeros(queries[own], value))
        elif not span.context:
            parts = queries[own], keys[own], values[own]
            found.append(scaled_dot_product_attention(*parts, is_causal=True, **options))
        else:
            seen = [*span.context, own]
            k, v = (torch.cat([each[part] for part in seen], dim=2) for each in (keys, values))
            bias = _lower_right(span.length, k.shape[2], k.device)
            parts = queries[own], k, v
            found.append(scaled_dot_product_attention(*parts, attn_mask=bias, **options))
    if rest:
        found.append(_zeros(queries[-1], value))
    return torch.cat(found, dim=2)


def _zeros(query: Tensor, value: Tensor) -> Tensor:
    """What attention gives for queries without a reader, or of padding."""
    return query.new_zeros(*query.shape[:3], value.shape[-1])


@functools.lru_cache(maxsize=64)
def _lower_right(queries: int, keys: int, device: torch.device) -> Tensor:
    """Each of the last ``queries`` of ``keys`` tokens sees those up to itself."""
    if device.type == "cuda":
        return causal_lower_right(queries, keys)  # no mask for the kernels that have this one
    seen = torch.ones(queries, keys, dtype=torch.bool, device=device)
    return seen.tril(keys - queries)
