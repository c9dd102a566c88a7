"""What ``max_length`` does to tokenized rows: which are lost and which are cut, counted and named.

TRL leaves both out of its log. The functions here take rows that are tokenized whole; they return
those that remain, and the numbers of the others. A stream is filtered as it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from trl_deepseek import row_findings
from trl_deepseek.data import rows
from trl_deepseek.data.values import IGNORED

if TYPE_CHECKING:
    import pyarrow as pa

COUNTS = ("whole", "left", "size")
LONGER = "raise max_length to keep them"
UNLABELLED = "does the assistant speak in them, and what are assistant_only_loss and max_length?"


def learnable(
    dataset: Any, source: str, limit: int | None, *, keep_end: bool = False
) -> tuple[Any, list[int], bool]:
    """The rows that the loss counts a token of, also once they are cut, and whether any will be.

    The first token of a row is never predicted, so that its label does not count.

    Args:
        dataset: Rows with ``labels``, of all their tokens.
        source: The dataset's name, for messages.
        limit: Tokens that a row may have; None where nothing is cut.
        keep_end: Whether the end of a row is kept, not its start.

    Raises:
        DataError: There is no such row.
    """
    part = slice(None) if limit is None else slice(-limit, None) if keep_end else slice(limit)
    if not rows.is_table(dataset):

        def keeps(row: rows.Row) -> bool:
            return any(label != IGNORED for label in row["labels"][part][1:])

        within = "" if limit is None else f" within max_length={limit}"
        why = f"have no token that the loss counts{within}"
        return (
            rows.leave_out_of_stream(dataset, keeps, source, why=why, way_out=UNLABELLED),
            [],
            True,
        )
    whole, left, sizes = _counted(dataset, limit, keep_end)
    unlabelled = np.flatnonzero(whole == 0).tolist()
    lost = np.flatnonzero((whole > 0) & (left == 0)).tolist()
    cut = 0 if limit is None else int(((left > 0) & (sizes > limit)).sum())
    total = len(dataset)
    if lost and len(lost) + len(unlabelled) == total:
        lost = sorted([*lost, *unlabelled])
        unlabelled = []
    left_out = sorted([*unlabelled, *lost])
    rows.leave_out(
        dataset,
        lost,
        source,
        why=f"have no token left to learn once they are cut to max_length={limit}",
        way_out=LONGER,
    )
    rows.leave_out(
        dataset,
        unlabelled,
        source,
        why="have no token that the loss counts",
        way_out=UNLABELLED,
    )
    if limit is not None:
        rows.say_cut(cut, total, source, limit)
    return rows.without(dataset, left_out), left_out, cut > 0


def _counted(dataset: Any, limit: int | None, keep_end: bool) -> tuple[np.ndarray, ...]:
    """Of each row the tokens that the loss counts, whole and cut to ``limit``, and its size."""
    from datasets import Value

    if not len(dataset):
        return (np.zeros(0, dtype=np.int64),) * 3
    labels = dataset.select_columns(["labels"]).with_format("arrow")
    features = {name: Value("int64") for name in COUNTS}
    count = partial(_count, limit=limit, keep_end=keep_end)
    key = ["count", limit, keep_end]
    counted = row_findings.kept(labels, count, features, key=key, desc="Counting")
    columns = counted.with_format("arrow")[:]
    return tuple(columns[name].to_numpy() for name in COUNTS)


def _count(batch: pa.Table, *, limit: int | None, keep_end: bool) -> dict[str, np.ndarray]:
    column = batch["labels"].combine_chunks()
    sizes = column.value_lengths().to_numpy()
    ends = sizes.cumsum()
    starts = ends - sizes
    counts = column.flatten().to_numpy() != IGNORED
    up_to = np.concatenate([[0], counts.cumsum()])  # how many before each token
    first, last = starts, ends
    if limit is not None and keep_end:
        first = np.maximum(starts, ends - limit)
    elif limit is not None:
        last = np.minimum(ends, starts + limit)
    whole = up_to[ends] - up_to[np.minimum(starts + 1, ends)]
    left = up_to[last] - up_to[np.minimum(first + 1, last)]
    return dict(zip(COUNTS, (whole, left, sizes), strict=True))


def _sizes(dataset: Any, name: str) -> np.ndarray:
    """How many tokens each row has in a column."""
    sizes = [column.value_lengths().to_numpy() for column in _columns(dataset, name)]
    return np.concatenate([np.zeros(0, dtype=np.int64), *sizes])


def _columns(dataset: Any, name: str) -> Iterator[pa.ListArray]:
    """A column of lists, a thousand rows at a time."""
    for batch in dataset.select_columns([name]).with_format("arrow").iter(1000):
        yield batch[name].combine_chunks()


def completions_left(
    dataset: Any, source: str, limit: int, *, keep_end: bool = False
) -> tuple[Any, list[int]]:
    """The rows whose prompts leave something of their completions.

    Args:
        dataset: Rows with ``prompt_ids`` and ``completion_ids``, or ``chosen_ids`` and
            ``rejected_ids``.
        source: The dataset's name, for messages.
        limit: Tokens that prompt and completion may have together.
        keep_end: Whether the end of a sequence is kept, not its start.

    Raises:
        DataError: There is no such row.
    """
    why = f"have a prompt that fills max_length={limit} tokens"
    if not rows.is_table(dataset):

        def keeps(row: rows.Row) -> bool:
            return keep_end or len(row["prompt_ids"]) < limit

        return rows.leave_out_of_stream(dataset, keeps, source, why=why, way_out=LONGER), []
    completions = ("chosen_ids", "rejected_ids", "completion_ids")
    names = [name for name in completions if name in dataset.column_names]
    prompts = _sizes(dataset, "prompt_ids")
    filled = (prompts >= limit) & (not keep_end)
    longest = prompts + np.maximum.reduce([_sizes(dataset, name) for name in names])
    lost = np.flatnonzero(filled).tolist()
    kept = rows.leave_out(dataset, lost, source, why=why, way_out=LONGER)
    rows.say_cut(int(((longest > limit) & ~filled).sum()), len(dataset), source, limit)
    return kept, lost


def short_enough(dataset: Any, source: str, limit: int) -> tuple[Any, list[int]]:
    """The rows with ``chosen_ids`` and ``rejected_ids`` of at most ``limit`` tokens.

    Raises:
        DataError: There is no such row.
    """
    why = f"have a chosen or rejected text of more than max_length={limit} tokens"
    names = ["chosen_ids", "rejected_ids"]

    def keeps(row: rows.Row) -> bool:
        return all(len(row[name]) <= limit for name in names)

    if not rows.is_table(dataset):
        return rows.leave_out_of_stream(dataset, keeps, source, why=why, way_out=LONGER), []
    longest = np.maximum.reduce([_sizes(dataset, name) for name in names])
    lost = np.flatnonzero(longest > limit).tolist()
    return rows.leave_out(dataset, lost, source, why=why, way_out=LONGER), lost
