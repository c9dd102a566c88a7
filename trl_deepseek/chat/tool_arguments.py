"""Tool arguments as mappings, for templates that write them one by one.

Data often holds them as JSON, and columnar files cannot hold mappings of differing keys without
filling them with nulls. Jinja cannot parse JSON, so it is done before a template sees the messages.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def parsed(messages: Sequence[Any]) -> list[Any]:
    """``messages``, or conversations of them, with JSON tool arguments as what they say."""
    return [
        parsed(message)
        if isinstance(message, (list, tuple))
        else {**message, "tool_calls": [_call(call) for call in message["tool_calls"]]}
        if isinstance(message, Mapping) and message.get("tool_calls")
        else message
        for message in messages
    ]


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            function["arguments"] = json.loads(arguments)
        except ValueError:
            function["arguments"] = {"arguments": arguments}  # as the official encoders do
    return {**call, "function": function}


def parse_arguments(tokenizer: PreTrainedTokenizerBase) -> None:
    """Make ``tokenizer.apply_chat_template`` parse tool arguments; what is saved is unchanged."""
    # On the instance, as a partial of a module's function: datasets pickles tokenizers.
    tokenizer.apply_chat_template = functools.partial(apply_parsed, tokenizer)


def apply_parsed(
    tokenizer: PreTrainedTokenizerBase, conversation: Any, *args: Any, **kwargs: Any
) -> Any:
    """The class's ``apply_chat_template`` on parsed messages."""
    messages = parsed(conversation) if isinstance(conversation, (list, tuple)) else conversation
    return type(tokenizer).apply_chat_template(tokenizer, messages, *args, **kwargs)
