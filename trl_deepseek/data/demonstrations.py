"""Demonstrations made fit for SFT, before a model is loaded: recognised, rewritten, checked.

What is wrong with a row is said with its number, counted from 0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from trl_deepseek import row_findings
from trl_deepseek.data import rows, values
from trl_deepseek.data.demonstration_rows import CALL, Layout, recognise
from trl_deepseek.errors import DataError

logger = logging.getLogger(__name__)


def layout_of(
    dataset: Any, *, text_field: str = "text", has_template: bool = True, name: str = "the dataset"
) -> Layout:
    """The layout of a dataset, by its columns and first row; see :func:`prepare`.

    Raises:
        DataError: It has no rows, or SFT cannot read it.
    """
    first = rows.first(dataset, name)
    try:
        columns = rows.column_names(dataset)
        return recognise(columns, first, text_field=text_field, has_template=has_template)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
    except rows.MALFORMED as error:
        raise DataError(f"{name}: row 0 is malformed: {type(error).__name__}: {error}") from error


def prepare(
    dataset: Any,
    *,
    text_field: str = "text",
    has_template: bool = True,
    name: str = "the dataset",
    processes: int | None = None,
) -> tuple[Any, Layout]:
    """The dataset as TRL reads it, and the layout it came in.

    Args:
        dataset: A ``Dataset`` or ``IterableDataset``.
        text_field: Name of the column with plain text.
        has_template: See :func:`trl_deepseek.data.demonstration_rows.recognise`.
        name: What to call the dataset in messages.
        processes: How many look at the rows of a table at a time; None for this one alone.

    Raises:
        DataError: SFT cannot read the dataset or one of its rows, or nobody answers in it.
    """
    layout = layout_of(dataset, text_field=text_field, has_template=has_template, name=name)
    columns = rows.column_names(dataset)
    if layout.rewrite is None:
        logger.info("%s: %s", name, layout.name)
        drops = [column for column in layout.drops if column in columns]
        dataset = dataset.remove_columns(drops) if drops else dataset
    else:
        logger.info("%s: %s, rewritten as conversations", name, layout.name)
        options: dict[str, Any] = {"with_indices": True, "remove_columns": columns}
        if (
            rows.is_table(dataset)
            and layout.calls is not None
            and _has_calls(dataset, layout.calls)
        ):
            # The types of a table's columns are taken from the first rows that are written.
            options["writer_batch_size"] = len(dataset)
        dataset = dataset.map(rows.numbered(layout.rewrite, name, layout.name), **options)
    if layout.kind != "tokens":
        dataset = _check(dataset, layout, name, processes)
    return dataset, layout


def check_demonstrations(dataset: Any, source: str) -> Any:
    """The dataset as :func:`prepare` gives it.

    Raises:
        DataError: As there.
    """
    return prepare(dataset, name=source)[0]


def _has_calls(dataset: Any, column: str) -> bool:
    def calls(row: rows.Row) -> list[row_findings.Words]:
        turns = row[column] if isinstance(row[column], list) else []
        found = any(isinstance(turn, dict) and turn.get("from") == CALL for turn in turns)
        return [[]] if found else []

    return any(True for _ in row_findings.find(dataset, [column], calls, key="calls"))


def _check(dataset: Any, layout: Layout, name: str, processes: int | None) -> Any:
    """Refuse rows that cannot be learned from; report answers that are empty."""
    of = values.fault_of_messages if layout.kind == "conversations" else values.fault_of_text
    fault = partial(_fault, of, layout.columns)
    key = [layout.kind, layout.columns]
    dataset = rows.check(dataset, name, fault, layout.columns, key=key, processes=processes)
    last = layout.columns[-1]
    empty = []
    if rows.is_table(dataset):
        silent = partial(_silence, last)
        found = row_findings.find(dataset, [last], silent, key="silence", processes=processes)
        empty = [number for number, _ in found]
    if empty:
        logger.warning(
            "%s: nothing is said in %d of %d rows (%s), which teaches to say nothing",
            name,
            len(empty),
            len(dataset),
            rows.some(empty),
        )
    return dataset


def _fault(of: Callable[[Any], str | None], columns: Sequence[str], row: rows.Row) -> str | None:
    for column in columns:
        found = of(row.get(column))
        if found is not None:
            return f"column {column!r} {found}"
    return _answer_fault(row[columns[-1]], f"column {columns[-1]!r}")


def _answer_fault(answer: Any, where: str) -> str | None:
    """What keeps turns from being learned from: that none is the assistant's."""
    if isinstance(answer, str) or any(turn["role"] == "assistant" for turn in answer):
        return None
    roles = ", ".join(str(turn["role"]) for turn in answer)
    return f"{where} has no turn of the assistant; its roles are {roles}"


def _silence(column: str, row: rows.Row) -> list[list[str]]:
    """One finding without words where nothing is said."""
    return [] if _says(row[column]) else [[]]


def _says(answer: Any) -> bool:
    """Whether anything is said in a text, or by the assistant in a list of turns."""
    if isinstance(answer, str):
        return bool(answer.strip())
    parts = ("content", "reasoning_content", "reasoning", "thinking", "tool_calls")
    said = [turn.get(part) for turn in answer if turn["role"] == "assistant" for part in parts]
    return any(found.strip() if isinstance(found, str) else found for found in said)
