"""What a value of a row is, and what is wrong with it; every answer is a clause without a subject.

``fault_of_...`` functions return None where nothing is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

IGNORED = -100  # the label of a token that the loss does not count

KINDS = {bool: "a truth value", int: "a whole number", float: "a number", dict: "a mapping"}
TEXT_OR_MESSAGES = "neither text nor a list of messages"


def kind_of(value: Any) -> str:
    """A value in words: ``nothing``, ``text``, ``a list of int``, ``a float``."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return "text" if value.strip() else "empty text"
    if isinstance(value, list):
        return f"a list of {type(value[0]).__name__}" if value else "an empty list"
    return KINDS.get(type(value), f"a {type(value).__name__}")


def fault_of_text(value: Any) -> str | None:
    """What keeps a value from being text; empty text is text."""
    return None if isinstance(value, str) else f"holds {kind_of(value)}, not text"


def fault_of_tokens(value: Any, size: int) -> str | None:
    """What keeps a value from being tokens of a model with ``size`` embeddings."""
    if not isinstance(value, list):
        return f"holds {kind_of(value)}, not a list of tokens"
    if not value:
        return "holds no token"
    for token in value:
        if isinstance(token, bool) or not isinstance(token, int):
            return f"holds {kind_of(token)} among its tokens"
        if not 0 <= token < size:
            return f"holds token {token}, and the model has embeddings for 0 to {size - 1}"
    return None


def fault_of_labels(value: Any, length: int, size: int) -> str | None:
    """What keeps a value from being labels of ``length`` tokens: tokens, -100 for no loss."""
    if not isinstance(value, list):
        return f"holds {kind_of(value)}, not a list of tokens"
    if len(value) != length:
        return f"holds {len(value)} labels for {length} tokens"
    return fault_of_tokens([0 if label == IGNORED else label for label in value], size)


def fault_of_messages(value: Any) -> str | None:
    """What keeps a value from being a conversation: each message has a role and content.

    Which roles a template knows is for the template to say; an assistant may have no content.
    """
    if not isinstance(value, list):
        return f"holds {kind_of(value)}, not a list of messages"
    if not value:
        return "holds an empty list of messages"
    for place, message in enumerate(value):
        if not isinstance(message, Mapping):
            return f"holds {kind_of(message)} as message {place}, not a mapping of role and content"
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or not role.strip():
            keys = ", ".join(key for key, found in message.items() if found is not None)
            return f"message {place} has no role; it has {keys or 'nothing'}"
        found = _fault_of_calls(message.get("tool_calls"))
        if found is not None:
            return f"message {place} ({role}): {found}"
        if content is None and role == "assistant":
            continue
        if not isinstance(content, (str, list)):
            return f"message {place} ({role}): the content is {kind_of(content)}, not text"
    return None


def _fault_of_calls(calls: Any) -> str | None:
    """What keeps a value from being tool calls, which a message may lack."""
    if calls is None:
        return None
    if not isinstance(calls, list):
        return f"tool_calls is {kind_of(calls)}, not a list of calls"
    for call in calls:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            return "a tool call is {type: function, function: {name, arguments}}"
    return None


def fault_of_turns(value: Any) -> str | None:
    """What keeps a value from being either text or a conversation."""
    if isinstance(value, str):
        return None
    if not isinstance(value, list):
        return f"holds {kind_of(value)}, {TEXT_OR_MESSAGES}"
    return fault_of_messages(value)


def fault_of_number(value: Any) -> str | None:
    """What keeps a value from being a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return f"holds {kind_of(value)}, not a number"
    return None if math.isfinite(value) else f"holds {value}, not a finite number"


def fault_of_label(value: Any) -> str | None:
    """What keeps a value from being a label: true or false, 1 or 0."""
    if isinstance(value, (bool, int, float)) and value in (0, 1):
        return None
    shown = kind_of(value) if value is None else repr(value)
    return f"holds {shown}; a label is true or false, 1 or 0"
