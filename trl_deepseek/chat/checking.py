"""Read every conversation before a model is loaded, and stop where training would go wrong unseen.

That is: control tokens in what people wrote, and reasoning that the chat template drops.
"""

from __future__ import annotations

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
    """
    pattern = pattern_of(tokenizer) if control_tokens else None

    def written(row: Mapping[str, Any]) -> str | None:
        return None if pattern is None else literal(row, pattern)

    def loses(row: Mapping[str, Any]) -> bool:
        return any(not _is_rendered(each, row, tokenizer) for each in _targets(row))

    if not hasattr(dataset, "__len__"):

        def checked(row: dict[str, Any], number: int) -> dict[str, Any]:
            where = written(row)
            _refuse(source, [(number, where)] if where else [], [number] if loses(row) else [])
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
        elif loses(row):
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


def _targets(row: Mapping[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """The conversations of a row that end in a turn to learn from or to compare."""
    prompt = row.get("prompt")
    before: list[dict[str, Any]] = list(prompt or []) if _is_conversation(prompt) else []
    for column in ("messages", "completion", "chosen", "rejected"):
        value = row.get(column)
        if _is_conversation(value):
            yield list(value or []) if column == "messages" else [*before, *(value or [])]


def _is_conversation(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def reasoning_of(message: Mapping[str, Any]) -> str:
    """The reasoning of a message, from its own key or inline in ``<think>``; empty if none."""
    for key in _REASONING:
        if isinstance(message.get(key), str) and message[key].strip():
            return str(message[key]).strip()
    inline = _INLINE.match(text_of(message))
    return inline[1].strip() if inline else ""


def text_of(message: Mapping[str, Any]) -> str:
    """The content of a message; of a list of parts, as OpenAI's API has it, their texts."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content)
    return content if isinstance(content, str) else ""


def _is_rendered(
    conversation: Sequence[Mapping[str, Any]],
    row: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
) -> bool:
    last = conversation[-1]
    reasoning = reasoning_of(last) if last.get("role") == "assistant" else ""
    if not reasoning or tokenizer.chat_template is None:
        return True
    try:
        text: str = tokenizer.apply_chat_template(
            [dict(message) for message in conversation],
            tools=row.get("tools") or None,
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
