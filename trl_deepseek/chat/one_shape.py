"""Messages in the one shape that templates read, whichever way their author wrote them.

Tool arguments become mappings: data often holds them as JSON, and columnar files cannot hold
mappings of differing keys without filling them with nulls; Jinja cannot parse JSON. Reasoning gets
its standard key, ``reasoning_content``, which transformers does by itself from 5.22 on.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trl_deepseek.chat import reasoning

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def shaped(messages: Sequence[Any], *, parse_arguments: bool) -> list[Any]:
    """``messages``, or conversations of them.

    Args:
        messages: Or a batch of such lists.
        parse_arguments: Whether tool arguments in JSON become what they say.
    """
    return [
        shaped(message, parse_arguments=parse_arguments)
        if isinstance(message, (list, tuple))
        else _shaped(message, parse_arguments)
        if isinstance(message, Mapping)
        else message
        for message in messages
    ]


def _shaped(message: Mapping[str, Any], parse_arguments: bool) -> Mapping[str, Any]:
    standard, *others = reasoning.KEYS
    if message.get(standard) is None:
        said = next((message[key] for key in others if message.get(key) is not None), None)
        if said is not None:
            message = {**message, standard: said}
    if parse_arguments and message.get("tool_calls"):
        message = {**message, "tool_calls": [_call(call) for call in message["tool_calls"]]}
    return message


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = dict(call.get("function") or {})
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            function["arguments"] = json.loads(arguments)
        except ValueError:
            function["arguments"] = {"arguments": arguments}  # as the official encoders do
    return {**call, "function": function}


def shape_messages(tokenizer: PreTrainedTokenizerBase, *, parse_arguments: bool) -> None:
    """Make ``tokenizer.apply_chat_template`` shape what it is given; what is saved is unchanged."""
    # On the instance, as a partial of a module's function: datasets pickles tokenizers.
    tokenizer.apply_chat_template = functools.partial(_apply, tokenizer, parse_arguments)


def _apply(
    tokenizer: PreTrainedTokenizerBase,
    parse_arguments: bool,
    conversation: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The class's ``apply_chat_template`` on shaped messages."""
    if isinstance(conversation, (list, tuple)):
        conversation = shaped(conversation, parse_arguments=parse_arguments)
    return type(tokenizer).apply_chat_template(tokenizer, conversation, *args, **kwargs)
