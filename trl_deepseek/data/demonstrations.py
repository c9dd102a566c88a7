"""Demonstrations made fit for SFT, before a model is loaded: recognised, rewritten, checked.

What is wrong with a row is said with its number, counted from 0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from trl_deepseek.data.demonstration_rows import CALL, Layout, recognise
from trl_deepseek.errors import DataError

logger = logging.getLogger(__name__)

SHOWN = 5  # row numbers in a report
WANTED = {list: "a list of messages", str: "text"}


def layout_of(
    dataset: Any, *, text_field: str = "text", has_template: bool = True, name: str = "the dataset"
) -> Layout:
    """The layout of a dataset, by its columns and first row; see :func:`prepare`.

    Raises:
        DataError: It has no rows, or SFT cannot read it.
    """
    first = next(iter(dataset), None)
    if first is None:
        raise DataError(f"{name} has no rows")
    try:
        columns = _columns(dataset)
        return recognise(columns, first, text_field=text_field, has_template=has_template)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def prepare(
    dataset: Any, *, text_field: str = "text", has_template: bool = True, name: str = "the dataset"
) -> tuple[Any, Layout]:
    """The dataset as TRL reads it, and the layout it came in.

    Args:
        dataset: A ``Dataset`` or ``IterableDataset``.
        text_field: Name of the column with plain text.
        has_template: See :func:`trl_deepseek.data.demonstration_rows.recognise`.
        name: What to call the dataset in messages.

    Raises:
        DataError: SFT cannot read the dataset or one of its rows, or nobody answers in it.
    """
    layout = layout_of(dataset, text_field=text_field, has_template=has_template, name=name)
    columns = _columns(dataset)
    is_table = hasattr(dataset, "__len__")  # a stream is not read twice
    if layout.rewrite is None:
        logger.info("%s: %s", name, layout.name)
        drops = [column for column in layout.drops if column in columns]
        dataset = dataset.remove_columns(drops) if drops else dataset
    else:
        logger.info("%s: %s, rewritten as conversations", name, layout.name)
        options: dict[str, Any] = {"with_indices": True, "remove_columns": columns}
        if is_table and layout.calls is not None and _has_calls(dataset, layout.calls):
            # The types of a table's columns are taken from the first rows that are written.
            options["writer_batch_size"] = len(dataset)
        dataset = dataset.map(_numbered(layout.rewrite, name), **options)
    if is_table and layout.kind != "tokens":
        _check(dataset, layout, name)
    return dataset, layout


def _columns(dataset: Any) -> list[str]:
    return list(dataset.column_names or next(iter(dataset)))


def _numbered(
    rewrite: Callable[[Any], dict[str, Any]], name: str
) -> Callable[[Any, int], dict[str, Any]]:
    def numbered(row: Any, number: int) -> dict[str, Any]:
        try:
            return rewrite(row)
        except DataError as error:
            raise DataError(f"{name}: row {number}: {error}") from error

    return numbered


def _has_calls(dataset: Any, column: str) -> bool:
    rows = dataset.select_columns([column])
    return any(turn.get("from") == CALL for row in rows for turn in row[column] or ())


def _check(dataset: Any, layout: Layout, name: str) -> None:
    """Refuse rows that cannot be learned from; report answers that are empty."""
    last = layout.columns[-1]
    expected = list if layout.kind == "conversations" else str
    empty = []
    for number, row in enumerate(dataset.select_columns(list(layout.columns))):
        for column in layout.columns:
            if not isinstance(row[column], expected):
                found = "nothing" if row[column] is None else type(row[column]).__name__
                raise DataError(
                    f"{name}: row {number}: column {column!r} holds {found}, not {WANTED[expected]}"
                )
        says = _says(row[last], f"{name}: row {number}: column {last!r}")
        if not says:
            empty.append(number)
    if empty:
        shown = ", ".join(map(str, empty[:SHOWN])) + (", ..." if len(empty) > SHOWN else "")
        logger.warning(
            "%s: nothing is said in %d of %d rows (row %s), which teaches to say nothing",
            name,
            len(empty),
            len(dataset),
            shown,
        )


def _says(answer: Any, where: str) -> bool:
    """Whether anything is said in a text, or by the assistant in a list of turns.

    Raises:
        DataError: There is no turn of the assistant.
    """
    if isinstance(answer, str):
        return bool(answer.strip())
    turns = [turn for turn in answer if turn.get("role") == "assistant"]
    if not turns:
        roles = ", ".join(str(turn.get("role")) for turn in answer) or "(no turns)"
        raise DataError(f"{where} has no turn of the assistant; its roles are {roles}")
    parts = ("content", "reasoning_content", "tool_calls")
    return any(turn.get(part) for turn in turns for part in parts)
