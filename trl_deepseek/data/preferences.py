"""Preference data made fit for a loss, before a model is loaded: pairs, or labelled singles.

Rows that teach nothing (chosen equals rejected, or a completion is empty) are counted and named;
they are left out only with ``drop_bad_rows``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from trl_deepseek.data.preference_rows import Layout, recognise
from trl_deepseek.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

WINDOW = 1000  # pairs that are dealt out together, at most
SHOWN = 5  # row numbers in a report


def pairs(dataset: Any, args: Any, losses: Sequence[str]) -> Any:
    """The dataset as pairs that TRL reads; None and every split of a mapping likewise.

    Args:
        dataset: In any layout that :mod:`trl_deepseek.data.preference_rows` knows.
        args: The config; ``drop_bad_rows`` is read.
        losses: Names of the run's losses, for the message.

    Raises:
        DataError: It is no preference data, has only labelled singles, or no usable row.
    """

    def convert(part: Dataset) -> Dataset:
        part, layout = _read(part, args)
        if layout.kind == "singles":
            raise DataError(
                f"the dataset holds labelled singles (completion, label), and loss "
                f"{', '.join(map(repr, losses))} compares the two completions of a pair\n"
                "  use an unpaired loss (kto, apo_zero_unpaired), or data with chosen and rejected"
            )
        return part

    return _each(dataset, convert)


def singles(dataset: Any, args: Any) -> Any:
    """The dataset as labelled singles; pairs are taken apart and dealt out, see :func:`deal`.

    Raises:
        DataError: It is no preference data, or has no usable row.
    """

    def convert(part: Dataset) -> Dataset:
        part, layout = _read(part, args)
        if layout.kind != "pairs":
            return part
        from trl import extract_prompt

        if "prompt" not in _columns(part):
            part = part.map(extract_prompt)
        options = {"remove_columns": _columns(part), "batched": True, "batch_size": _window(part)}
        return part.map(deal, **options)

    return _each(dataset, convert)


def deal(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Take N pairs apart into 2N singles so that classes alternate and neighbours share no prompt.

    First one completion of each pair, chosen and rejected in turn, then the others. Every batch of
    two or more holds both classes, and a completion moved on by one row, as for KTO's estimate of
    the KL, meets the prompt of another pair.
    """
    count = len(batch["chosen"])
    order = [(i, i % 2 == 0) for i in range(count)] + [(i, i % 2 == 1) for i in range(count)]
    shared = [name for name in batch if name not in ("chosen", "rejected")]
    return {
        "completion": [batch["chosen" if desirable else "rejected"][i] for i, desirable in order],
        "label": [desirable for _, desirable in order],
        **{name: [batch[name][i] for i, _ in order] for name in shared},
    }


def _window(dataset: Any) -> int:
    """Pairs to deal out together: even, so that batches of two never straddle, and of one size.

    A last window of one pair would leave its two completions as neighbours.
    """
    if not hasattr(dataset, "__len__"):
        return WINDOW
    windows = -(-len(dataset) // WINDOW)
    size = -(-len(dataset) // windows)
    return size + size % 2


def class_weights(
    desirable: int, undesirable: int, given: tuple[float | None, float | None]
) -> tuple[float, float]:
    """Weights with which both classes count alike; those given stay.

    The paper keeps (weight x count of desirable) / (weight x count of undesirable) between 1 and
    4/3; this makes it 1, by raising the weight of the rarer class.

    Source: arXiv:2402.01306, equation 8.
    """
    first, second = given
    if not desirable or not undesirable:
        return (1.0 if first is None else first, 1.0 if second is None else second)
    ratio = undesirable / desirable
    if first is None and second is None:
        return max(ratio, 1.0), max(1 / ratio, 1.0)
    if first is None:
        return (second or 0.0) * ratio, second or 0.0
    return first, first / ratio if second is None else second


def _each(dataset: Any, convert: Callable[[Any], Any]) -> Any:
    if dataset is None:
        return None
    if isinstance(dataset, dict):
        return type(dataset)({name: convert(part) for name, part in dataset.items()})
    return convert(dataset)


def _read(dataset: Any, args: Any) -> tuple[Any, Layout]:
    """Recognise, rewrite and check one dataset."""
    first = next(iter(dataset), None)
    if first is None:
        raise DataError("the dataset has no rows")
    columns = _columns(dataset)
    layout = recognise(columns, first)
    if layout.rewrite is not None:
        logger.warning("read as %s and rewritten as conversations", layout.name)
        dataset = dataset.map(layout.rewrite, remove_columns=columns)
    if layout.kind != "tokens":
        drop = bool(getattr(args, "drop_bad_rows", False))
        names = ("chosen", "rejected") if layout.kind == "pairs" else ("completion",)
        dataset = _without_bad_rows(dataset, names, drop)
    return dataset, layout


def _columns(dataset: Any) -> list[str]:
    return list(dataset.column_names or next(iter(dataset)))


def _without_bad_rows(dataset: Any, names: tuple[str, ...], drop: bool) -> Any:
    if not hasattr(dataset, "__len__"):  # a stream is not counted, only filtered
        return dataset.filter(lambda row: not _faults(row, names)) if drop else dataset
    bad: dict[str, list[int]] = {}
    for number, row in enumerate(dataset.select_columns(list(names))):
        for fault in _faults(row, names):
            bad.setdefault(fault, []).append(number)
    if not bad:
        return dataset
    numbers = set().union(*bad.values())
    report = "; ".join(f"{fault}: {_some(rows)}" for fault, rows in bad.items())
    if len(numbers) == len(dataset):
        raise DataError(f"none of the {len(dataset)} rows can teach anything: {report}")
    fate = "left out" if drop else "kept; drop_bad_rows leaves them out"
    logger.warning("%d of %d rows are bad (%s): %s", len(numbers), len(dataset), fate, report)
    if not drop:
        return dataset
    return dataset.select([i for i in range(len(dataset)) if i not in numbers])


def _faults(row: Any, names: tuple[str, ...]) -> list[str]:
    faults = [f"{name} is empty" for name in names if _is_empty(row[name])]
    if len(names) == 2 and row[names[0]] == row[names[1]]:
        faults.append(f"{names[0]} equals {names[1]}")
    return faults


def _is_empty(completion: Any) -> bool:
    if isinstance(completion, str) or not completion:
        return not (completion or "").strip()
    last = completion[-1]
    return not (last.get("content") or last.get("tool_calls") or last.get("reasoning_content"))


def _some(rows: list[int]) -> str:
    shown = ", ".join(map(str, rows[:SHOWN])) + (", ..." if len(rows) > SHOWN else "")
    return f"{len(rows)} (row {shown})" if len(rows) == 1 else f"{len(rows)} (rows {shown})"
