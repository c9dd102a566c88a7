"""Packed rows: documents laid end to end, of which each attends to itself alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from trl_deepseek.lm_head import unwrap
from trl_deepseek.segments import cost, exactness
from trl_deepseek.segments.mask import SegmentMask
from trl_deepseek.segments.spans import Span


@contextlib.contextmanager
def by_documents(model: nn.Module, mode: str, position_ids: Tensor | None) -> Iterator[bool]:
    """While open, packed rows attend document by document, where that is exact and cheaper.

    Without, ``transformers`` gives ``sdpa`` a dense mask over the whole row. The mask is put in
    where the backbone is called, so that nothing outside of it, such as the experts' load-balancing
    loss, meets it. Yields whether it is.

    Args:
        model: A causal language model, perhaps wrapped.
        mode: ``prefix_sharing``; with ``off`` nothing is done, with ``on`` the cost is not asked.
        position_ids: (R, L), 0 where a document begins; None where rows are not packed.
    """
    spans = None if position_ids is None or mode == "off" else _documents(position_ids)
    inner = unwrap(model)
    if (
        spans is None
        or position_ids is None
        or exactness.known(model) is not None
        or exactness.compiled(model)
        or inner.config.get_text_config()._attn_implementation != "sdpa"
        or not (mode == "on" or _pays(cost.costs(model), spans, position_ids.shape[1]))
    ):
        yield False
        return
    mask = SegmentMask(spans, position_ids.shape[1], position_ids.device)

    def before(_: nn.Module, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, given if given.get("attention_mask") is not None else _masked(given, mask)

    handle = inner.base_model.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield True
    finally:
        handle.remove()


def _masked(given: dict[str, Any], mask: SegmentMask) -> dict[str, Any]:
    return {**given, "attention_mask": mask}


def _documents(position_ids: Tensor) -> list[list[Span]] | None:
    """The documents of each row; None where a row is one, or begins in the middle of one."""
    width = position_ids.shape[1]
    rows = []
    for row in position_ids:
        starts = (row == 0).nonzero().flatten().tolist()
        if not starts or starts[0] != 0:
            return None
        ends = [*starts[1:], width]
        rows.append([Span(end - start) for start, end in zip(starts, ends, strict=True)])
    return rows if any(len(row) > 1 for row in rows) else None


def _pays(costs: cost.Costs, rows: list[list[Span]], width: int) -> bool:
    area = sum(costs.triangle * span.length**2 for row in rows for span in row)
    apart = area * costs.pair + sum(map(len, rows)) * costs.call
    whole = len(rows) * width * costs.token
    return whole + apart <= cost.WORTH * (whole + len(rows) * width**2 * costs.pair + costs.call)
