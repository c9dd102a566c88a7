"""The rows of a dataset as questions: a prompt each, and what metrics compare the answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trl_deepseek import data
from trl_deepseek.data import demonstrations, preferences
from trl_deepseek.errors import DataError
from trl_deepseek.types import DatasetKind, Messages

REFERENCE = "reference"  # the column of known answers
TAKEN = ("prompt", "messages", "completion", "chosen", "rejected", "text")
RENDERED_WITH = ("tools", "chat_template_kwargs")


@dataclass(frozen=True)
class Questions:
    """What is asked, N prompts.

    Attributes:
        prompts: Text or messages each.
        columns: The dataset's others, (N,) each.
        rendered_with: For each prompt the ``tools`` and ``chat_template_kwargs`` of its row.
    """

    prompts: list[str | Messages]
    columns: dict[str, list[Any]]
    rendered_with: list[dict[str, Any]]


def read(dataset: Any, kind: DatasetKind, source: str, *, compared_by: str | None = None) -> Any:
    """The dataset, seen to be of a kind.

    ``demonstrations`` in any layout that SFT takes get a column ``reference`` with the answer that
    they show, unless they have one; they keep their other columns.

    Args:
        dataset: A table.
        kind: What is wanted of it.
        source: Its name, for messages.
        compared_by: The metric that compares answers with those of demonstrations, for which a
            ``reference`` will do instead of a whole one; None where nobody answers.

    Raises:
        DataError: It is not, or a row is malformed.
    """
    if kind == "preferences":
        from trl.data_utils import maybe_extract_prompt

        rows = preferences.pairs(dataset, None, [], source)
        return rows.map(maybe_extract_prompt) if "prompt" not in rows.column_names else rows
    names = dataset.column_names
    if kind == "prompts" and ("prompt" in names or "messages" not in names):
        return data.check_prompts(dataset, source, who="an evaluation")
    if compared_by is not None:
        if {"prompt", REFERENCE} <= set(names):
            return data.check_prompts(dataset, source, who="an evaluation")
        _require_answers(dataset, source, compared_by)
    rows, layout = demonstrations.prepare(dataset, name=source)
    if layout.kind == "tokens" or REFERENCE in names or not asks(rows):
        return rows
    last = layout.columns[-1]
    return rows.add_column(REFERENCE, [_answer(value, last) for value in rows[last]])


def questions(dataset: Any) -> Questions:
    """What is asked of a dataset that :func:`read` has seen."""
    names = dataset.column_names
    rows = list(dataset)
    if "prompt" in names:
        prompts = [row["prompt"] for row in rows]
    elif "messages" in names:
        prompts = [_before_answer(row["messages"]) for row in rows]
    else:
        prompts = [""] * len(rows)
    columns = {name: [row[name] for row in rows] for name in names if name not in TAKEN}
    with_ = [{name: row.get(name) for name in RENDERED_WITH} for row in rows]
    return Questions(prompts, columns, with_)


def asks(dataset: Any) -> bool:
    """Whether there is something to answer in a dataset, rather than text to read."""
    return bool({"prompt", "messages"}.intersection(dataset.column_names))


def _require_answers(dataset: Any, source: str, metric: str) -> None:
    try:
        if {"prompt", "messages"}.intersection(
            demonstrations.layout_of(dataset, name=source).columns
        ):
            return
    except DataError:
        pass  # no layout that SFT takes, of which the metric needs one of two things only
    raise DataError(
        f"metric {metric!r} compares with known answers, which {source} does not have: the column "
        f"{REFERENCE!r}, or demonstrations\n  columns found: {', '.join(dataset.column_names)}\n"
        f"  another column can stand for it: --columns OTHER={REFERENCE}"
    )


def _answer(shown: Any, column: str) -> str:
    """The answer of a demonstration: text, or the turn of the assistant that comes first."""
    if isinstance(shown, str):
        return shown
    turns = [turn for turn in shown if turn["role"] == "assistant"]
    return str(turns[-1 if column == "messages" else 0].get("content") or "")


def _before_answer(messages: Messages) -> Messages:
    last = max(i for i, turn in enumerate(messages) if turn["role"] == "assistant")
    return messages[:last]
