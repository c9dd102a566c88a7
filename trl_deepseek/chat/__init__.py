"""Chat templates at work: find one, render with it, put it into a tokenizer.

``resolve`` and ``recognise`` find a template by name or by what a tokenizer and model look like;
``render`` and ``encode`` apply it; ``install`` makes a tokenizer train with it, and
``inference_template`` and ``set_stop_tokens`` make what is saved generate with it.
"""

from trl_deepseek.chat.beginnings import begin_once
from trl_deepseek.chat.checking import check_conversations, say_if_prompts_are_text
from trl_deepseek.chat.control_tokens import escape
from trl_deepseek.chat.installing import (
    generation_prefix,
    inference_template,
    install,
    installed,
    parse_tool_calls,
    set_stop_tokens,
)
from trl_deepseek.chat.messages import holds_conversations
from trl_deepseek.chat.recognising import recognise, resolve
from trl_deepseek.chat.rendering import Encoding, encode, render
from trl_deepseek.chat.thinking import with_thinking, without_empty_options

__all__ = [
    "Encoding",
    "begin_once",
    "check_conversations",
    "encode",
    "escape",
    "generation_prefix",
    "holds_conversations",
    "inference_template",
    "install",
    "installed",
    "parse_tool_calls",
    "recognise",
    "render",
    "resolve",
    "say_if_prompts_are_text",
    "set_stop_tokens",
    "with_thinking",
    "without_empty_options",
]
