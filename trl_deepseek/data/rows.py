"""Walk the rows of a dataset, and say of a wrong one which it is.

A table is read to its end before anything is trained; a stream can be read once only, so that each
of its rows is checked as training reaches it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

from trl_deepseek import row_findings
from trl_deepseek.data import values
from trl_deepseek.errors import DataError, about_rows

logger = logging.getLogger(__name__)

SHOWN = 5  # row numbers in a report
PATIENCE = 1000  # rows of a stream that may be refused before one is kept
# What ends a function that meets a row of another make; it must not end in a traceback.
MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)

Row = Mapping[str, Any]
TOKENS = (
    *("input_ids", "prompt_ids", "completion_ids", "chosen_ids", "rejected_ids"),
    *("chosen_input_ids", "rejected_input_ids"),
)
LABELS = "labels"


def is_table(dataset: Any) -> bool:
    """Whether the rows can be counted and read twice."""
    return hasattr(dataset, "__len__")


def column_names(dataset: Any) -> list[str]:
    """The columns; those of the first row where a stream does not know them."""
    return list(getattr(dataset, "column_names", None) or next(iter(dataset), {}))


def each(dataset: Any, convert: Callable[[Any], Any]) -> Any:
    """``convert`` applied to a dataset, or to each of a mapping of them; None stays None."""
    if dataset is None:
        return None
    if isinstance(dataset, dict):
        return type(dataset)({name: convert(part) for name, part in dataset.items()})
    if isinstance(dataset, (str, list, tuple)):
        way = "load_dataset(...)" if isinstance(dataset, str) else "Dataset.from_list(rows)"
        raise DataError(
            f"a dataset is a datasets.Dataset, not a {type(dataset).__name__}\n"
            f"  make one with datasets.{way}"
        )
    return convert(dataset)


def first(dataset: Any, source: str) -> Row:
    """The first row.

    Raises:
        DataError: There is none.
    """
    row: Row | None = next(iter(dataset), None)
    if row is None:
        raise DataError(f"{source} has no rows")
    return row


def check(
    dataset: Any,
    source: str,
    fault: Callable[[Row], str | None],
    columns: Sequence[str],
    *,
    key: Sequence[Any] | None = None,
    processes: int | None = None,
) -> Any:
    """The dataset, each row of which has no fault; of a stream that is seen as it is read.

    Args:
        dataset: A ``Dataset`` or ``IterableDataset``.
        source: Its name, for messages.
        fault: What is wrong with a row, or None.
        columns: The columns that ``fault`` reads; those that are missing are left out.
        key: All that ``fault`` depends on besides the row, so that a second run need not ask again;
            None where that cannot be said.
        processes: How many look at the rows of a table at a time; None for this one alone. What
            they are given is pickled: ``fault`` is then a module's function, or a partial of one.

    Raises:
        DataError: Names the first row with a fault, counted from 0, and how many more there are.
    """
    if not is_table(dataset):

        def checked(row: dict[str, Any], number: int) -> dict[str, Any]:
            found = fault(row)
            if found is not None:
                raise DataError(f"{source}: row {number}: {found}")
            return row

        return dataset.map(checked, with_indices=True, features=dataset.features)
    if key is not None:
        called = fault.func if isinstance(fault, partial) else fault
        key = [called.__module__, called.__qualname__, *key]
    look = partial(_fault, fault)
    found = row_findings.find(dataset, columns, look, key=key, processes=processes)
    faults = {number: words[0] for number, words in found}
    if faults:
        number, *others = faults
        more = f"\n  {some(others)} of {len(dataset)} cannot be used either" if others else ""
        raise about_rows(DataError(f"{source}: row {number}: {faults[number]}{more}"), faults)
    return dataset


def _fault(fault: Callable[[Row], str | None], row: Row) -> list[list[str]]:
    found = fault(row)
    return [] if found is None else [[found]]


def check_tokens(dataset: Any, source: str, size: Callable[[], int]) -> Any:
    """The dataset; columns of tokens hold such as the model has embeddings for, labels one of each.

    Args:
        dataset: A ``Dataset`` or ``IterableDataset`` with or without such columns.
        source: Its name, for messages.
        size: How many embeddings the model has; called where there are such columns.

    Raises:
        DataError: A row holds anything else.
    """
    columns = [name for name in TOKENS if name in column_names(dataset)]
    if not columns:
        return dataset
    count = size()
    labelled = {"input_ids", LABELS} <= set(column_names(dataset))

    def fault(row: Row) -> str | None:
        for name in columns:
            found = values.fault_of_tokens(row.get(name), count)
            if found is not None:
                return f"column {name!r} {found}"
        if labelled:
            found = values.fault_of_labels(row.get(LABELS), len(row["input_ids"]), count)
        return f"column {LABELS!r} {found}" if labelled and found else None

    read = [*columns, *[LABELS] * labelled]
    return check(dataset, source, fault, read, key=[read, count])


def numbered(
    rewrite: Callable[[Row], dict[str, Any]], source: str, layout: str
) -> Callable[[Row, int], dict[str, Any]]:
    """``rewrite`` for ``Dataset.map(..., with_indices=True)``, that names a row it cannot read."""

    def rewritten(row: Row, number: int) -> dict[str, Any]:
        try:
            return rewrite(row)
        except DataError as error:
            found = f"{error}"
            message = f"{source}: row {number}: {found}"
            raise about_rows(DataError(message), {number: found}) from error
        except MALFORMED as error:
            found = f"cannot be read as {layout}: {type(error).__name__}: {error}"
            message = f"{source}: row {number} {found}"
            raise about_rows(DataError(message), {number: found}) from error

    return rewritten


def some(numbers: Sequence[int], what: str = "row") -> str:
    """``row 3``, or ``rows 1, 2, 3, 4, 5, ...``, at most five of them."""
    shown = ", ".join(map(str, numbers[:SHOWN])) + (", ..." if len(numbers) > SHOWN else "")
    return f"{what}{'s' if len(numbers) > 1 else ''} {shown}"


def leave_out(dataset: Any, lost: Sequence[int], source: str, *, why: str, way_out: str) -> Any:
    """A table without the rows ``lost``, which are counted and named.

    Args:
        dataset: A ``Dataset``.
        lost: Numbers of the rows, in their order.
        source: The dataset's name, for messages.
        why: What all of them have in common: ``have ...``.
        way_out: What the user can do.

    Raises:
        DataError: No row is left.
    """
    if not lost:
        return dataset
    total = len(dataset)
    if len(lost) == total:
        raise DataError(f"all {total} rows of {source} {why}, so that none is left\n  {way_out}")
    logger.warning(
        "%d of %d rows of %s %s and are left out (%s); %s",
        len(lost),
        total,
        source,
        why,
        some(lost),
        way_out,
    )
    return without(dataset, lost)


def leave_out_of_stream(
    dataset: Any, keeps: Callable[[Row], bool], source: str, *, why: str, way_out: str
) -> Any:
    """A stream without the rows that ``keeps`` refuses; that some are refused is said once.

    Raises:
        DataError: While it is read: so many rows have been refused, and none kept.
    """
    met = {True: 0, False: 0}

    def kept(row: Row) -> bool:
        keep = keeps(row)
        met[keep] += 1
        if not met[True] and met[False] == PATIENCE:
            raise DataError(f"the first {PATIENCE} rows of {source} {why}\n  {way_out}")
        if not keep and met[False] == 1:
            logger.warning("rows of %s that %s are left out; %s", source, why, way_out)
        return keep

    return dataset.filter(kept)


def without(dataset: Any, lost: Collection[int]) -> Any:
    """A table without the rows ``lost``."""
    gone = set(lost)
    if not gone:
        return dataset
    return dataset.select([number for number in range(len(dataset)) if number not in gone])


def say_cut(cut: int, total: int, source: str, limit: int) -> None:
    """Say how many rows are longer than ``limit`` tokens and go on in part."""
    if cut:
        logger.warning(
            "%d of %d rows of %s are cut to max_length=%d tokens; raise max_length to keep them "
            "whole",
            cut,
            total,
            source,
            limit,
        )
