"""The rows that each metric of an evaluation is measured on, seen to be what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trl_deepseek import data
from trl_deepseek.errors import DataError
from trl_deepseek.evaluation import questions
from trl_deepseek.evaluation.choosing import Chosen, check_rows


@dataclass(frozen=True)
class Rows:
    """The rows of each metric, by its name; metrics that bring their own are not there."""

    by_metric: Mapping[str, Any]


def prepare(dataset: Any, chosen: Sequence[Chosen]) -> Rows:
    """Read and check a dataset for metrics.

    Args:
        dataset: Rows for all metrics, or a mapping from kind to rows of that kind.
        chosen: The metrics.

    Raises:
        DataError: It does not fit a metric.
    """
    read: dict[tuple[Any, ...], Any] = {}
    found: dict[str, Any] = {}
    for each in chosen:
        if each.rows is None:
            continue
        given = dataset[each.rows] if isinstance(dataset, Mapping) else dataset
        source = data.source_of(given, "the dataset")
        compares = each.rows == "demonstrations" and each.over != "model"
        own = each.metric.format_row if each.metric is not None else None
        key = (id(given), each.rows, compares, own)
        if key not in read:
            rows = given if own is None else _formatted(own, each.name, given, source)
            by = each.name if compares else None
            try:
                read[key] = questions.read(rows, each.rows, source, compared_by=by)
            except DataError as error:
                if error.rows or each.rows == "prompts" or by is not None:  # says so itself
                    raise
                raise DataError(
                    f"metric {each.name!r} is measured on {each.rows}: {error}"
                ) from error
        check_rows([each], read[key], source)
        found[each.name] = read[key]
    return Rows(found)


def _formatted(
    format_row: Callable[[Mapping[str, Any], int], Mapping[str, Any]],
    metric: str,
    dataset: Any,
    source: str,
) -> Any:
    """The dataset with the rows that a metric makes of its own file format.

    Raises:
        DataError: Names the first row that is not of this format.
    """
    rows = []
    for number, row in enumerate(dataset):
        try:
            rows.append(dict(format_row(row, number)))
        except (KeyError, TypeError, ValueError) as error:
            said = f"it has no column {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"metric {metric!r} cannot read row {number} of {source}: {said}\n"
                f"  columns found: {', '.join(dataset.column_names)}"
            ) from error
    return type(dataset).from_list(rows) if rows else dataset
