"""Read every conversation before a model is loaded, and stop where training would go wrong unseen.

That is: control tokens in what people wrote, and reasoning that the chat template drops.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trl_deepseek.chat.control_tokens import COLUMNS, literal, pattern_of
from trl_deepseek.errors import DataError, TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_INLINE = re.compile(r"\s*<think>(.+?)</think>", re.DOTALL)
_REASONING = ("reasoning_content", "reasoning", "thinking")
_ROLES = ("system", "user", "assistant")
_NAMED = 5  # rows named in a message; the others are counted


def check_conversations(
    dataset: Any,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    *,
    control_tokens: bool = True,
    show_progress: bool = False,
) -> Any:
    """Refuse rows whose tokens would not be what the data says.

    Args:
        dataset: A ``Dataset`` or ``IterableDataset`` with conversations in ``messages``,
            ``prompt``, ``completion``, ``chosen`` or ``rejected``; anything else is left alone.
        tokenizer: With the chat template that trains.
        source: The dataset's name, for messages.
        control_tokens: Whether a control token that stands literally in a message is an error.
        show_progress: Whether to show a bar.

    Returns:
        The dataset. A stream, which can be read once only, checks each row as training reaches it.

    Raises:
        DataError: A message contains a control token, or the last assistant turn's reasoning is
            not in what the template renders.
        TemplateError: The template cannot render a row.
    """
    pattern = pattern_of(tokenizer) if control_tokens else None

    def written(row: Mapping[str, Any]) -> str | None:
        return None if pattern is None else literal(row, pattern)

    def loses(row: Mapping[str, Any], number: int) -> bool:
        try:
            return any(not _is_rendered(each, row, tokenizer) for each in _conversations(row))
        except TemplateError as error:
            raise TemplateError(f"{source}, row {number}: {error}") from error

    if not hasattr(dataset, "__len__"):
        if not holds_conversations(dataset):
            return dataset

        def checked(row: dict[str, Any], number: int) -> dict[str, Any]:
            where = written(row)
            _refuse(
                source, [(number, where)] if where else [], [number] if loses(row, number) else []
            )
            return row

        return dataset.map(checked, with_indices=True)

    from tqdm.auto import tqdm

    columns = [c for c in (*COLUMNS, "chat_template_kwargs") if c in dataset.column_names]
    found: list[tuple[int, str]] = []
    lost: list[int] = []
    rows = dataset.select_columns(columns) if columns else []
    for number, row in enumerate(
        tqdm(rows, desc="Checking conversations", disable=not show_progress)
    ):
        where = written(row)
        if where is not None:
            found.append((number, where))
        elif loses(row, number):
            lost.append(number)
    _refuse(source, found, lost)
    return dataset


def _refuse(source: str, found: Sequence[tuple[int, str]], lost: Sequence[int]) -> None:
    """Raise if rows hold a control token (with where) or lose their reasoning."""
    if found:
        number, where = found[0]
        others = _rows([number for number, _ in found[1:]])
        raise DataError(
            f"{source}, row {number}: {where}, which the tokenizer reads as a control token"
            f"{f'; so does {others}' if others else ''}\n"
            "  --control_tokens escape encodes it as the text it is; allow lets it through"
        )
    if lost:
        raise DataError(
            f"{source}, {_rows(lost)}: the last assistant turn has reasoning, and the chat "
            "template does not render it: the model would learn to answer without\n"
            "  name a template that does, such as --chat_template deepseek-r1, or remove the "
            "reasoning from the data"
        )


def holds_conversations(dataset: Any) -> bool:
    """Whether a column of the first row is a conversation."""
    row: Mapping[str, Any] = next(iter(dataset), {})
    return any(_is_conversation(row.get(column)) for column in COLUMNS if column != "tools")


def _conversations(row: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """The whole conversations of a row: its messages, or its prompt with each answer or alone."""
    prompt = row.get("prompt")
    before: list[dict[str, Any]] = list(prompt or []) if _is_conversation(prompt) else []
    if _is_conversation(row.get("messages")):
        yield row["messages"]
    answers = [row[c] for c in ("completion", "chosen", "rejected") if _is_conversation(row.get(c))]
    for answer in answers or [[]] * bool(before):
        yield [*before, *answer]


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def reasoning_of(message: Mapping[str, Any]) -> str:
    """The reasoning of a message, from its own key or inline in ``<think>``; empty if none."""
    for key in _REASONING:
        if isinstance(message.get(key), str) and message[key].strip():
            return str(message[key]).strip()
    content = message.get("content")
    if isinstance(content, list):  # of parts, as OpenAI's API has it
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    inline = _INLINE.match(content) if isinstance(content, str) else None
    return inline[1].strip() if inline else ""


def _may_fail(message: Mapping[str, Any]) -> bool:
    """Whether not every format can write a message: it has tools, parts, or a rare role."""
    is_text = isinstance(message.get("content"), (str, type(None)))
    return not is_text or bool(message.get("tool_calls")) or message.get("role") not in _ROLES


def _is_rendered(
    conversation: Sequence[Mapping[str, Any]],
    row: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
) -> bool:
    last = conversation[-1]
    reasoning = reasoning_of(last) if last.get("role") == "assistant" else ""
    if tokenizer.chat_template is None or not (reasoning or any(map(_may_fail, conversation))):
        return True
    tools = row.get("tools")
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in conversation],
            tools=(json.loads(tools) if isinstance(tools, str) and tools else tools) or None,
            tokenize=False,
            **(row.get("chat_template_kwargs") or {}),
        )
    except Exception as error:  # a template may raise anything; all of it is about this row
        raise TemplateError(
            f"the chat template cannot render this conversation: {error}"
        ) from error
    return reasoning in text


def _rows(numbers: Sequence[int]) -> str:
    """``row 3``, ``rows 3, 5``, or ``rows 3, 5, 6, 8, 9 and 12 more``; nothing for none."""
    if not numbers:
        return ""
    shown = ", ".join(map(str, numbers[:_NAMED]))
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f"row{'s' if len(numbers) > 1 else ''} {shown}{more}"
