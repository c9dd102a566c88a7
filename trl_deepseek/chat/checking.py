"""Read every conversation before a model is loaded, and stop where training would go wrong unseen.

What can be wrong with a row is in :mod:`trl_deepseek.chat.faults`; this walks over the rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from trl_deepseek import row_findings
from trl_deepseek.chat.control_tokens import COLUMNS, pattern_of
from trl_deepseek.chat.faults import Inspector
from trl_deepseek.chat.message_faults import Fault
from trl_deepseek.chat.messages import TARGETS, holds_conversations, is_conversation
from trl_deepseek.errors import DataError, TemplateError, about_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_NAMED = 5  # rows named in a message; the others are counted
_SAID = "_trl_deepseek_said"  # what has been said about a tokenizer's template, on the tokenizer
_PLAIN = "_trl_deepseek_plain"  # datasets of which it was said that their prompts are text
_PLACEHOLDER = "\ue001"  # a private-use character: no template writes it by itself


def check_conversations(
    dataset: Any,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    *,
    control_tokens: bool = True,
    tools: Sequence[Any] | None = None,
    masks: bool = False,
    processes: int | None = None,
    show_progress: bool = False,
) -> Any:
    """Refuse rows whose tokens would not be what the data says.

    Args:
        dataset: A ``Dataset`` or ``IterableDataset`` with conversations in ``messages``,
            ``prompt``, ``completion``, ``chosen`` or ``rejected``; anything else is left alone.
        tokenizer: With the chat template that trains.
        source: The dataset's name, for messages.
        control_tokens: Whether a control token that stands literally in a message is an error.
        tools: Definitions that every row is rendered with; None where each brings its own.
        masks: Whether the loss is taken by the template's marks, so that a message may opt out
            with ``"train": false`` or ``"weight": 0``.
        processes: How many look at the rows of a table at a time; None for this one alone.
        show_progress: Whether to show a bar.

    Returns:
        The dataset. A stream, which can be read once only, checks each row as training reaches it.

    Raises:
        DataError: A row has a fault; see :mod:`trl_deepseek.chat.faults`.
        TemplateError: The template cannot render a row.
    """
    say_if_prompts_are_text(dataset, tokenizer, source)
    pattern = pattern_of(tokenizer) if control_tokens else None
    inspect = partial(Inspector, tokenizer, pattern, tools, masks)
    inspector = inspect()

    def fault_of(row: Mapping[str, Any], number: int, inspector: Inspector) -> Fault | None:
        try:
            return next(inspector.faults(row), None)
        except (DataError, TemplateError) as error:
            message = f"{source}, row {number}: {error}"
            raise about_rows(type(error)(message), {number: str(error)}) from error

    if not hasattr(dataset, "__len__"):
        if not holds_conversations(dataset):
            return dataset

        def checked(row: dict[str, Any], number: int) -> dict[str, Any]:
            fault = fault_of(row, number, inspector)
            if fault is not None:
                _refuse(source, {number: fault})
            return row

        return dataset.map(checked, with_indices=True)

    columns = [c for c in (*COLUMNS, "chat_template_kwargs") if c in dataset.column_names]
    found: dict[int, Fault] = {}
    changed: dict[str, list[int]] = {}
    for number, words in row_findings.find(
        dataset,
        columns,
        partial(_look, inspector),
        key=inspector.key(),
        processes=processes,
        what="Checking conversations" if show_progress else None,
    ):
        match words:
            case [what, way_out]:
                found[number] = Fault(what, way_out)
            case [change]:
                changed.setdefault(change, []).append(number)
            case _:  # it could not be rendered, nor can it now
                fault = fault_of(dataset[number], number, inspect())
                if fault is not None:
                    found[number] = fault
    if found:
        _refuse(source, found)
    for change, numbers in changed.items():
        logger.warning("%s, %s: the chat template %s", source, _rows(numbers), change)
    first: Mapping[str, Any] = next(iter(dataset), {})
    if any(is_conversation(first.get(c)) for c in TARGETS):
        _say_if_turns_do_not_end(tokenizer)
    return dataset


def _look(inspector: Inspector, row: Mapping[str, Any]) -> Iterator[row_findings.Words]:
    """A row's fault, as two texts, or what is changed in it, as one each.

    Nothing is said of a row that is no conversation or cannot be rendered, but that it is there.
    """
    try:
        fault = next(inspector.faults(row), None)
    except (DataError, TemplateError):
        yield ()
        return
    if fault is None:
        yield from ((change,) for change in inspector.changes(row))
    else:
        yield fault.what, fault.way_out


def _refuse(source: str, found: Mapping[int, Fault]) -> None:
    """Raise for the first row's fault, and name the other rows that have one of its kind.

    Raises:
        DataError: Always.
    """
    first = next(iter(found.values()))
    number = next(iter(found))
    alike = [n for n, fault in found.items() if fault.way_out == first.way_out]
    if all(found[n] == first for n in alike):
        message = f"{source}, {_rows(alike)}: {first.what}"
    else:  # they differ in what they quote
        message = f"{source}, row {number}: {first.what}; so does {_rows(alike[1:])}"
    faults = {n: f"{fault.what}\n  {fault.way_out}" for n, fault in found.items()}
    raise about_rows(DataError(f"{message}\n  {first.way_out}"), faults)


def say_if_prompts_are_text(dataset: Any, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
    """Say, once for a dataset, that a chat template is there and its prompts do not meet it."""
    inner: Any = getattr(tokenizer, "tokenizer", tokenizer)
    said: set[str] = getattr(inner, _PLAIN, set())
    first: Mapping[str, Any] = next(iter(dataset), {})
    if tokenizer.chat_template and isinstance(first.get("prompt"), str) and source not in said:
        setattr(inner, _PLAIN, said | {source})
        logger.info(
            "%s: prompts are plain text, which the model reads without its chat template; "
            "as_messages makes turns of them",
            source,
        )


def _say_if_turns_do_not_end(tokenizer: PreTrainedTokenizerBase) -> None:
    """Warn, once for a tokenizer, where its template writes no end behind an answer."""
    inner: Any = getattr(tokenizer, "tokenizer", tokenizer)
    if tokenizer.chat_template is None or getattr(inner, _SAID, None) == tokenizer.chat_template:
        return
    setattr(inner, _SAID, tokenizer.chat_template)
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": _PLACEHOLDER}]
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # it cannot render these two turns: what it does with real rows is checked
        return
    end = text.rpartition(_PLACEHOLDER)[2]
    known = [inner.eos_token, *inner.get_added_vocab()]
    if not any(token and token in end for token in known):
        logger.warning(
            "the chat template writes no end of turn behind an answer (it could be %r): the model "
            "would not learn to stop",
            inner.eos_token,
        )


def _rows(numbers: Sequence[int]) -> str:
    """``row 3``, ``rows 3, 5``, or ``rows 3, 5, 6, 8, 9 and 12 more``; nothing for none."""
    if not numbers:
        return ""
    shown = ", ".join(map(str, numbers[:_NAMED]))
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f"row{'s' if len(numbers) > 1 else ''} {shown}{more}"
