"""What ``max_length`` does to tokenized rows: which are lost and which are cut, counted and named.

TRL leaves both out of its log. The functions here take rows that are tokenized whole; they return
those that remain, and the numbers of the others. A stream is filtered as it is read.
"""

from __future__ import annotations

from typing import Any

from trl_deepseek.data import rows

IGNORED = -100  # the label of a token that the loss does not count
LONGER = "raise max_length to keep them"
UNLABELLED = "does the assistant speak in them, and what are assistant_only_loss and max_length?"


def learnable(
    dataset: Any, source: str, limit: int | None, *, keep_end: bool = False
) -> tuple[Any, list[int]]:
    """The rows that the loss counts a token of, also once they are cut.

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
        return rows.leave_out_of_stream(dataset, keeps, source, why=why, way_out=UNLABELLED), []
    unlabelled, lost, cut = [], [], 0
    for number, row in enumerate(dataset.select_columns(["labels"]).with_format("numpy")):
        labels = row["labels"]
        left = labels[part]
        if not (labels[1:] != IGNORED).any():
            unlabelled.append(number)
        elif not (left[1:] != IGNORED).any():
            lost.append(number)
        elif len(left) < len(labels):
            cut += 1
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
    return rows.without(dataset, left_out), left_out


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
    lost, cut = [], 0
    for number, row in enumerate(dataset.select_columns(["prompt_ids", *names])):
        prompt = len(row["prompt_ids"])
        if prompt >= limit and not keep_end:
            lost.append(number)
        elif prompt + max(len(row[name]) for name in names) > limit:
            cut += 1
    kept = rows.leave_out(dataset, lost, source, why=why, way_out=LONGER)
    rows.say_cut(cut, len(dataset), source, limit)
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
    lost = [n for n, row in enumerate(dataset.select_columns(names)) if not keeps(row)]
    return rows.leave_out(dataset, lost, source, why=why, way_out=LONGER), lost
