"""Preference rows checked before a model is loaded: each completion, prompt, label and margin."""

from __future__ import annotations

from typing import Any

from trl_deepseek import row_findings
from trl_deepseek.data import rows, values
from trl_deepseek.data.preference_rows import HH_START, Layout, recognise
from trl_deepseek.errors import DataError

READ = ("prompt", "question", "input", "system", "chosen", "rejected", "completion", "label")


def layout_of(dataset: Any, source: str) -> Layout:
    """The layout of a dataset, by its columns and first row.

    Raises:
        DataError: It has no rows, or is no preference data.
    """
    row = rows.first(dataset, source)
    try:
        return recognise(rows.column_names(dataset), row, source)
    except rows.MALFORMED as error:
        raise DataError(f"{source}: row 0 is malformed: {type(error).__name__}: {error}") from error


def check_preferences(dataset: Any, source: str, *, needs_prompt: bool = True) -> Any:
    """The dataset, pairs or labelled singles, each row of which is one.

    Args:
        dataset: A ``Dataset`` or ``IterableDataset`` in any layout; a stream is checked as it is
            read.
        source: Its name, for messages.
        needs_prompt: Whether completions are scored after a prompt, which a reward model does not.

    Raises:
        DataError: It is no preference data, or a row is malformed; names the row and column.
    """
    layout = layout_of(dataset, source)
    if layout.kind == "tokens":
        return dataset
    fault = _single_fault if layout.kind == "singles" else _pair_fault
    has_prompt = "prompt" in rows.column_names(dataset)
    implicit = needs_prompt and not has_prompt and layout.rewrite is None

    def found(row: rows.Row) -> str | None:
        return fault(row, layout, has_prompt) or (_shared_fault(row) if implicit else None)

    is_kept = layout.rewrite is None
    key = [
        layout.name,
        layout.kind,
        layout.question,
        layout.dialogue,
        is_kept,
        has_prompt,
        implicit,
    ]
    return rows.check(dataset, source, found, READ, key=key)


def speakers_beside_the_assistant(dataset: Any) -> dict[int, set[str]]:
    """Roles of what stands in the answers of a table and is no answer, by the row's number."""
    columns = {"prompt", "completion", "chosen", "rejected"} & set(rows.column_names(dataset))
    if not rows.is_table(dataset) or not columns - {"prompt"}:
        return {}
    from trl.data_utils import maybe_extract_prompt

    def others(row: rows.Row) -> list[row_findings.Words]:
        answers = {**maybe_extract_prompt(dict(row)), "prompt": None}.values()
        turns = (turn for answer in answers if isinstance(answer, list) for turn in answer)
        found = {turn["role"] for turn in turns} - {"assistant"}
        return [sorted(found)] if found else []

    found = row_findings.find(dataset, sorted(columns), others, key="others")
    return {number: set(words) for number, words in found}


def check_labels(dataset: Any, source: str) -> Any:
    """The dataset, whose column ``label`` says true or false, 1 or 0, in each row.

    Raises:
        DataError: Something else stands in a row.
    """
    return rows.check(dataset, source, _label_fault, ["label"], key=[])


def check_margin(dataset: Any, source: str) -> Any:
    """The dataset; where it has a column ``margin``, that holds a finite number in each row.

    Raises:
        DataError: Something else stands in a row.
    """
    if "margin" not in rows.column_names(dataset):
        return dataset

    def fault(row: rows.Row) -> str | None:
        found = values.fault_of_number(row.get("margin"))
        if found is None:
            return None
        return f"column 'margin' {found}; every pair has a margin, or the column is left out"

    return rows.check(dataset, source, fault, ["margin"], key=[])


def _label_fault(row: rows.Row) -> str | None:
    found = values.fault_of_label(row.get("label"))
    return None if found is None else f"column 'label' {found}"


def _single_fault(row: rows.Row, layout: Layout, has_prompt: bool) -> str | None:
    return (
        _label_fault(row)
        or _turns_fault(row, "prompt")
        or _turns_fault(row, "completion")
        or _mixed_fault(row, ("prompt", "completion"))
    )


def _pair_fault(row: rows.Row, layout: Layout, has_prompt: bool) -> str | None:
    found = _turns_fault(row, "chosen") or _turns_fault(row, "rejected")
    if found is not None:
        return found
    if layout.question is not None:
        text = values.fault_of_text(row.get(layout.question))
        return None if text is None else f"column {layout.question!r} {text}"
    if layout.dialogue:
        return _dialogue_fault(row)
    if has_prompt:
        found = _turns_fault(row, "prompt")
    if found is None and layout.rewrite is None:
        names = ("prompt", "chosen", "rejected") if has_prompt else ("chosen", "rejected")
        found = _mixed_fault(row, names)
    return found


def _turns_fault(row: rows.Row, column: str) -> str | None:
    found = values.fault_of_turns(row.get(column))
    return None if found is None else f"column {column!r} {found}"


def _mixed_fault(row: rows.Row, names: tuple[str, ...]) -> str | None:
    texts = [name for name in names if isinstance(row.get(name), str)]
    if len(texts) in (0, len(names)):
        return None
    others = [name for name in names if name not in texts]
    return (
        f"column {texts[0]!r} holds text and {others[0]!r} messages, unlike the first row; "
        "all rows are text, or all are messages"
    )


def _dialogue_fault(row: rows.Row) -> str | None:
    for name in ("chosen", "rejected"):
        if not isinstance(row[name], str) or not row[name].startswith(HH_START):
            return f"column {name!r} does not start with {HH_START!r}, as the first row does"
    return None


def _shared_fault(row: rows.Row) -> str | None:
    """What keeps a prompt from being found at the start of both conversations or texts."""
    chosen, rejected = row["chosen"], row["rejected"]
    if chosen and rejected and chosen[0] == rejected[0]:
        if isinstance(chosen, str) or min(len(chosen), len(rejected)) > 1:
            return None
        return "column 'chosen' or 'rejected' is one message: there is no prompt before it"
    if not chosen or not rejected:
        empty = "chosen" if not chosen else "rejected"
        return f"column {empty!r} is empty, and a prompt was to be found at its start"
    return (
        "chosen and rejected share no beginning, which would be the prompt; add a column 'prompt', "
        "or start both with it"
    )
