"""How answers since V3.2 are taken apart: what transformers calls a response template.

Tool calls are tags, and a value is text whose type the tool's own definition says, so transformers
must be one that types values by the tools (5.15).
"""

from __future__ import annotations

from typing import Any

from trl_deepseek.chat.reasoning import CLOSE, OPEN

END = "<｜end▁of▁sentence｜>"


def response_template(block: str, gap: str, *anchors: str) -> dict[str, Any]:
    """The response template of a family.

    Args:
        block: The name of the tag around all calls of an answer.
        gap: What stands between the bar and a tag's name.
        *anchors: Where a turn goes on behind the results of its calls, without a new header.
    """
    begin, end = "<｜DSML｜", "</｜DSML｜"
    name = r'invoke name="(?P<name>[^"]+)">'
    value = rf'string="(?:true|false)">(?P<value>.*?){end}{gap}parameter>'
    return {
        "defaults": {"role": "assistant"},
        "start_anchor": ["<｜Assistant｜>", *anchors],
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


def json_calls(begin: str, end: str, anchor: str) -> dict[str, Any]:
    """The response template of a family whose calls have their arguments as JSON.

    Args:
        begin: Pattern of what stands before the arguments, with the group ``name``.
        end: Pattern of what stands behind them.
        anchor: Where a turn goes on behind the results of its calls.
    """
    block = "<｜tool▁calls▁{}｜>"
    return {
        "defaults": {"role": "assistant"},
        "start_anchor": ["<｜Assistant｜>", anchor],
        "fields": {
            "reasoning_content": {
                "open_pattern": rf"{OPEN}|(?={CLOSE})",
                "close": CLOSE,
                "content": "text",
            },
            "tool_calls": {
                "open_pattern": rf"\s*(?:{block.format('begin')})?\s*<｜tool▁call▁begin｜>{begin}",
                "close_pattern": rf"{end}<｜tool▁call▁end｜>(?:\s*{block.format('end')})?",
                "repeats": True,
                "content": "json",
                "transform": {
                    "type": "function",
                    "function": {"name": "{name}", "arguments": "{content}"},
                },
            },
            "content": {"close": END, "content": "text"},
        },
    }


# Up to V3 and R1: the type, and the arguments in a block of JSON.
FENCED = json_calls(
    r"function<｜tool▁sep｜>(?P<name>[^\n<]+)\n```json\n", r"\n```", "<｜tool▁outputs▁end｜>"
)
# V3.1 and V3.2-Exp: name and arguments.
PLAIN = json_calls(r"(?P<name>[^<]+)<｜tool▁sep｜>", "", "<｜tool▁output▁end｜>")
