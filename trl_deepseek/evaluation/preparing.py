"""The rows that each metric of an evaluation is measured on, seen to be what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trl_deepseek import data
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
    read: dict[tuple[int, str | None, bool], Any] = {}
    found: dict[str, Any] = {}
    for each in chosen:
        if each.rows is None:
            continue
        given = dataset[each.rows] if isinstance(dataset, Mapping) else dataset
        source = data.source_of(given, "the dataset")
        answers = each.over != "model"
        key = (id(given), each.rows, answers)
        if key not in read:
            read[key] = questions.read(given, each.rows, source, answers=answers)
        check_rows([each], read[key], source)
        found[each.name] = read[key]
    return Rows(found)
