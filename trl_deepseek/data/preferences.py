"""Preference data made fit for a loss, before a model is loaded: pairs, or labelled singles.

Rows that teach nothing (chosen equals rejected, or a completion is empty) are counted and named;
they are left out only with ``drop_bad_rows``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trl_deepseek import row_findings
from trl_deepseek.data import rows
from trl_deepseek.data.loading import source_of
from trl_deepseek.data.preference_checks import (
    READ,
    check_preferences,
    layout_of,
    speakers_beside_the_assistant,
)
from trl_deepseek.data.preference_rows import Layout
from trl_deepseek.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

WINDOW = 1000  # pairs that are dealt out together, at most
COMPLETIONS = ("chosen", "rejected")


def pairs(
    dataset: Any,
    args: Any,
    losses: Sequence[str],
    source: str = "the dataset",
    *,
    needs_prompt: bool = True,
) -> Any:
    """The dataset as pairs that TRL reads; None and every split of a mapping likewise.

    Args:
        dataset: In any layout that :mod:`trl_deepseek.data.preference_rows` knows.
        args: The config; ``drop_bad_rows`` is read.
        losses: Names of the run's losses, for the message.
        source: What to call a dataset that has no name of its own.
        needs_prompt: See :func:`check_preferences`.

    Raises:
        DataError: It is no preference data, has only labelled singles, a malformed row, or no
            usable one.
    """

    def convert(part: Dataset) -> Dataset:
        name = source_of(part, source)
        part, layout = _read(part, args, name, needs_prompt)
        if layout.kind == "singles":
            raise DataError(
                f"{name} holds labelled singles (completion, label), and loss "
                f"{', '.join(map(repr, losses))} compares the two completions of a pair\n"
                "  use an unpaired loss (kto, apo_zero_unpaired), or data with chosen and rejected"
            )
        return part

    return rows.each(dataset, convert)


def either(dataset: Any, args: Any, source: str = "the dataset") -> Any:
    """The dataset as pairs or as labelled singles, whichever it holds.

    Raises:
        DataError: It is no preference data, or has a malformed row or no usable one.
    """
    return rows.each(dataset, lambda part: _read(part, args, source_of(part, source), True)[0])


def dealt(dataset: Any, source: str = "the dataset") -> Any:
    """What :func:`either` gives, as labelled singles; its name then says what a row is.

    Pairs are taken apart and dealt out, see :func:`deal`.
    """

    def convert(part: Dataset) -> Dataset:
        if not set(COMPLETIONS) <= set(rows.column_names(part)):
            return part
        from trl import extract_prompt

        if "prompt" not in rows.column_names(part):
            part = part.map(extract_prompt)
        options = {
            "remove_columns": rows.column_names(part),
            "batched": True,
            "batch_size": _window(part),
        }
        singles = part.map(deal, **options)
        singles.info.dataset_name = f"{source_of(part, source)}, its pairs taken apart,"
        return singles

    return rows.each(dataset, convert)


def tell(dataset: Any, source: str = "the dataset") -> Any:
    """The dataset; warns of columns that no loss on completions reads, and of what is scored.

    TRL's mask tells the prompt from the answer, and nothing within it: others than the assistant
    are scored, too. A stream is not read.
    """

    def tell(part: Any) -> Any:
        columns = rows.column_names(part)
        pairs = set(COMPLETIONS) <= set(columns)
        unread: list[str] = [name for name in ("label", "completion") if pairs and name in columns]
        unread += [name for name in ("margin",) if name in columns]
        for column in unread:
            logger.warning(
                "%s: column %r is not read: %s",
                source_of(part, source),
                column,
                "a margin is for reward models"
                if column == "margin"
                else "chosen and rejected say which answer is which",
            )
        found = speakers_beside_the_assistant(part)
        if found:
            logger.warning(
                "%s: in %d of %d rows (%s) an answer goes on after a message of the %s, which is "
                "scored with it: to score the last answer alone, put what comes before it into "
                "the prompt",
                *(source_of(part, source), len(found), len(part), rows.some(list(found))),
                " or the ".join(sorted(set().union(*found.values()))),
            )
        return part

    return rows.each(dataset, tell)


def deal(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Take N pairs apart into 2N singles so that classes alternate and neighbours share no prompt.

    First one completion of each pair, chosen and rejected in turn, then the others. Every batch of
    two or more holds both classes, and a completion moved on by one row, as for KTO's estimate of
    the KL, meets the prompt of another pair.
    """
    count = len(batch["chosen"])
    order = [(i, i % 2 == 0) for i in range(count)] + [(i, i % 2 == 1) for i in range(count)]
    shared = [name for name in batch if name not in (*COMPLETIONS, "completion", "label")]
    return {
        "completion": [batch["chosen" if desirable else "rejected"][i] for i, desirable in order],
        "label": [desirable for _, desirable in order],
        **{name: [batch[name][i] for i, _ in order] for name in shared},
    }


def _window(dataset: Any) -> int:
    """Pairs to deal out together: even, so that batches of two never straddle, and of one size.

    A last window of one pair would leave its two completions as neighbours.
    """
    if not rows.is_table(dataset):
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


def _read(dataset: Any, args: Any, source: str, needs_prompt: bool) -> tuple[Any, Layout]:
    """Recognise, check and rewrite one dataset."""
    layout = layout_of(dataset, source)
    if layout.kind == "tokens":
        return dataset, layout
    dataset = check_preferences(dataset, source, needs_prompt=needs_prompt)
    if layout.rewrite is not None:
        logger.warning("%s: read as %s and rewritten as conversations", source, layout.name)
        rewrite = rows.numbered(layout.rewrite, source, layout.name)
        columns = rows.column_names(dataset)
        dataset = dataset.map(rewrite, with_indices=True, remove_columns=columns)
        dataset = check_preferences(dataset, source, needs_prompt=needs_prompt)
    drop = bool(getattr(args, "drop_bad_rows", False))
    if rows.is_table(dataset):
        return _without_bad_rows(dataset, drop, source), layout
    if drop:  # a stream is not counted, only filtered
        names = COMPLETIONS if layout.kind == "pairs" else ("completion",)
        dataset = dataset.filter(lambda row: not _faults(row, names))
    return dataset, layout


def _without_bad_rows(dataset: Any, drop: bool, source: str) -> Any:
    bad = bad_rows(dataset)
    if not bad:
        return dataset
    numbers = sorted(set().union(*bad.values()))
    report = "; ".join(f"{why}: {len(found)} ({rows.some(found)})" for why, found in bad.items())
    total = len(dataset)
    if len(numbers) == total:
        raise DataError(f"{source}: none of the {total} rows can teach anything: {report}")
    fate = "left out" if drop else "kept; drop_bad_rows leaves them out"
    logger.warning("%s: %d of %d rows are bad (%s): %s", source, len(numbers), total, fate, report)
    if not drop:
        return dataset
    logger.warning(
        "%s: from here on the %d rows left are counted anew", source, total - len(numbers)
    )
    return rows.without(dataset, numbers)


def bad_rows(dataset: Any) -> dict[str, list[int]]:
    """Numbers of the rows of a table of pairs or singles that teach nothing, by what is wrong."""
    layout = layout_of(dataset, "the dataset")
    names = COMPLETIONS if layout.kind == "pairs" else ("completion",)
    bad: dict[str, list[int]] = {}

    def faults(row: rows.Row) -> list[row_findings.Words]:
        found = _faults(layout.rewrite(row) if layout.rewrite else row, names)
        return [[fault] for fault in found]

    for number, words in row_findings.find(
        dataset, READ, faults, key=["bad", layout.name, layout.question]
    ):
        bad.setdefault(words[0], []).append(number)
    return bad


def _faults(row: rows.Row, names: Sequence[str]) -> list[str]:
    faults = [f"{name} is empty" for name in names if _is_empty(row[name])]
    if names == COMPLETIONS and row["chosen"] == row["rejected"]:
        faults.append("chosen equals rejected")
    return faults


def _is_empty(completion: Any) -> bool:
    if isinstance(completion, str) or not completion:
        return not (completion or "").strip()
    parts = ("content", "reasoning_content", "reasoning", "thinking", "tool_calls")
    said = [completion[-1].get(part) for part in parts]
    return not any(found.strip() if isinstance(found, str) else found for found in said)
