"""What stands in a row of conversations and in a message, in every form that data has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trl_deepseek.chat import reasoning
from trl_deepseek.chat.control_tokens import COLUMNS

ANSWERS = ("completion", "chosen", "rejected")
TARGETS = ("messages", *ANSWERS)  # columns whose assistant messages are trained on

Conversation = list[dict[str, Any]]


def is_conversation(value: Any) -> bool:
    """Whether a column's value is a list of messages."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def holds_conversations(dataset: Any) -> bool:
    """Whether a column of the first row is a conversation."""
    row: Mapping[str, Any] = next(iter(dataset), {})
    return any(is_conversation(row.get(column)) for column in COLUMNS if column != "tools")


def conversations(row: Mapping[str, Any]) -> Iterator[Conversation]:
    """The whole conversations of a row: its messages, or its prompt with each answer or alone."""
    prompt = row.get("prompt")
    before: Conversation = list(prompt or []) if is_conversation(prompt) else []
    if is_conversation(row.get("messages")):
        yield row["messages"]
    answers = [row[c] for c in ANSWERS if is_conversation(row.get(c))]
    for answer in answers or [[]] * bool(before):
        yield [*before, *answer]


def text_of(message: Mapping[str, Any]) -> str:
    """The content of a message as text; that of parts, as OpenAI's API has them, joined."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def reasoning_of(message: Mapping[str, Any]) -> str:
    """The reasoning of a message, from its own key or inline in ``<think>``; empty if none."""
    for key in reasoning.KEYS:
        if isinstance(message.get(key), str) and message[key].strip():
            return str(message[key]).strip()
    return reasoning.inline(text_of(message)).strip()
