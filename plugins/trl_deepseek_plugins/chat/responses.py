"""How answers since V3.2 are taken apart: what transformers calls a response template.

Tool calls are tags, and a value is text whose type the tool's own definition says, so transformers
must be one that types values by the tools (5.15).
"""

from __future__ import annotations

from typing import Any

from trl_deepseek.chat.reasoning import CLOSE, OPEN

END = "<｜end▁of▁sentence｜>"


def response_template(block: str, gap: str) -> dict[str, Any]:
    """The response template of a family.

    Args:
        block: The name of the tag around all calls of an answer.
        gap: What stands between the bar and a tag's name.
    """
    begin, end = "<｜DSML｜", "</｜DSML｜"
    name = r'invoke name="(?P<name>[^"]+)">'
    value = rf'string="(?:true|false)">(?P<value>.*?){end}{gap}parameter>'
    return {
        "defaults": {"role": "assistant"},
        "start_anchor": "<｜Assistant｜>",
        "fields": {
            # a prompt that rules thinking out ends in the closing tag alone
            "reasoning_content": {
                "open_pattern": rf"{OPEN}|(?={CLOSE})",
                "close": CLOSE,
                "content": "text",
            },
            "tool_calls": {
                "open_pattern": rf"\s*(?:{begin}{block}>\s*)?{begin}{gap}{name}",
                "close_pattern": rf"{end}{gap}invoke>(?:\s*{end}{block}>)?",
                "repeats": True,
                "content": "xml-inline",
                "content_args": {
                    "tag_pattern": rf'{begin}{gap}parameter name="(?P<key>[^"]+)" {value}',
                    "value_parser": {"name": "text", "args": {"strip": False}},
                },
                "transform": {
                    "type": "function",
                    "function": {"name": "{name}", "arguments": "{content}"},
                },
            },
            "content": {"close": END, "content": "text"},
        },
    }
