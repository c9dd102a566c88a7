"""Layouts that demonstrations come in, recognised by their columns and first row.

    messages                        one conversation; role and content
    prompt, completion              both text or both messages; one of each is rewritten
    conversations                   ShareGPT: from and value (or role and content)
    instruction, output             Alpaca: maybe with input, system and history
    text, input_ids                 TRL's own, for text without turns and for tokens

ShareGPT and Alpaca rows are rewritten as messages and as prompt and completion; the rest is TRL's
own and stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trl_deepseek.data.values import fault_of_text, kind_of
from trl_deepseek.errors import DataError
from trl_deepseek.types import Message, Messages

Row = Mapping[str, Any]

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
    **{role: role for role in ("system", "developer", "user", "assistant", "tool")},
}
STYLES = (("role", "content"), ("from", "value"))
BOTH_SIDES = ("prompt", "completion")
CALL = "function_call"  # whose text is JSON, {"name": ..., "arguments": ...}
KEPT = ("tools", "chat_template_kwargs", "image", "images")  # columns that a rewritten row keeps
ACCEPTED = """\
  accepted are
    messages: a list of {role, content}
    prompt and completion: texts or lists of messages
    conversations: a list of {from, value} (ShareGPT)
    instruction, output and perhaps input, system, history (Alpaca)
    %s: plain text; or input_ids: tokens
  rename yours: --columns question=prompt answer=completion, or dataset.rename_columns"""


@dataclass(frozen=True)
class Layout:
    """One way to lay out demonstrations.

    Attributes:
        name: What to call it to the user.
        kind: Conversations, which a chat template renders, ``text`` or ``tokens``.
        columns: Those that TRL reads, once the rows are rewritten.
        rewrite: Row to row that TRL reads; None where it reads the row as it is.
        drops: Columns that would mislead TRL.
        calls: Column of turns whose calls are text, so that rows differ once they are parsed.
    """

    name: str
    kind: Literal["conversations", "text", "tokens"]
    columns: tuple[str, ...]
    rewrite: Callable[[Row], dict[str, Any]] | None = None
    drops: tuple[str, ...] = ()
    calls: str | None = None


def recognise(
    columns: Sequence[str], row: Row, *, text_field: str = "text", has_template: bool = True
) -> Layout:
    """The layout of a dataset.

    Args:
        columns: Its columns.
        row: Its first row.
        text_field: Name of the column with plain text.
        has_template: Whether conversations are wanted; without a template a column of plain text,
            which TRL trains on by itself, goes before what would be rewritten.

    Raises:
        DataError: It is none of them; says which columns are there and which would do.
    """
    found = set(columns)
    if "input_ids" in found:
        return Layout("tokens", "tokens", ("input_ids",))
    if {"prompt", "completion"} <= found:
        return _prompt_and_completion(row)
    if "messages" in found:
        misleading = tuple(found & {"prompt", "completion", "conversations"})
        return _turns(row, "messages", misleading)
    if text_field in found and not has_template:
        return Layout(f"text ({text_field})", "text", (text_field,))
    if "conversations" in found:
        return _turns(row, "conversations", ())
    if {"instruction", "output"} <= found:
        return Layout(
            "Alpaca rows (instruction, input, output)", "conversations", BOTH_SIDES, _alpaca
        )
    if text_field in found:
        return Layout(f"text ({text_field})", "text", (text_field,))
    hint = ""
    if {"chosen", "rejected"} <= found or {"completion", "label"} <= found:
        hint = "\n  this is preference data: `trl-deepseek preference` or DPOTrainer takes it"
    elif "prompt" in found:
        hint = "\n  prompts without completions are for `trl-deepseek grpo` or GRPOTrainer"
    raise DataError(
        f"no demonstrations for SFT; the columns are {', '.join(columns)}{hint}\n"
        f"{ACCEPTED % text_field}"
    )


def _prompt_and_completion(row: Row) -> Layout:
    kinds = [_kind(row, name) for name in BOTH_SIDES]
    if kinds == ["text", "text"]:
        return Layout("prompt and completion (text)", "text", BOTH_SIDES)
    if kinds == ["turns", "turns"]:
        return Layout("prompt and completion (messages)", "conversations", BOTH_SIDES)
    name = "prompt and completion (text and messages)"
    return Layout(name, "conversations", BOTH_SIDES, _mixed)


def _turns(row: Row, column: str, drops: tuple[str, ...]) -> Layout:
    if _kind(row, column) == "text":
        raise DataError(f"column {column!r} holds text, not a list of messages")
    first: Any = row[column][0] if row[column] else {}
    style = next((keys for keys in STYLES if set(keys) <= set(first)), None)
    if style is None:
        raise DataError(
            f"column {column!r}: a turn has role and content, or from and value; the first one has "
            f"{', '.join(map(str, first)) or 'nothing'}"
        )
    if column == "messages" and style == STYLES[0]:
        return Layout("messages", "conversations", ("messages",), drops=drops)
    return Layout(
        f"ShareGPT rows ({column}: {', '.join(style)})",
        "conversations",
        ("messages",),
        lambda row: _sharegpt(row, column),
        drops,
        calls=column,
    )


def _kind(row: Row, column: str) -> Literal["text", "turns"]:
    value = row[column]
    if isinstance(value, str):
        return "text"
    if isinstance(value, list) and all(isinstance(turn, Mapping) for turn in value):
        return "turns"
    raise DataError(
        f"column {column!r} holds {kind_of(value)}, neither text nor a list of messages"
    )


def _kept(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in KEPT if name in row}


def _mixed(row: Row) -> dict[str, Any]:
    sides = {"prompt": "user", "completion": "assistant"}
    turns = {
        side: [{"role": role, "content": row[side]}] if isinstance(row[side], str) else row[side]
        for side, role in sides.items()
    }
    return {**turns, **_kept(row)}


def _alpaca(row: Row) -> dict[str, Any]:
    for column in ("instruction", "output"):
        fault = fault_of_text(row[column])
        if fault is not None:
            raise DataError(f"column {column!r} {fault}")
    prompt: Messages = []
    if row.get("system"):
        prompt.append({"role": "system", "content": row["system"]})
    for question, answer in row.get("history") or []:
        prompt.append({"role": "user", "content": question})
        prompt.append({"role": "assistant", "content": answer})
    question = "\n".join(part for part in (row["instruction"], row.get("input")) if part)
    prompt.append({"role": "user", "content": question})
    completion = [{"role": "assistant", "content": row["output"]}]
    return {"prompt": prompt, "completion": completion, **_kept(row)}


def _sharegpt(row: Row, column: str) -> dict[str, Any]:
    turns = row[column]
    if not isinstance(turns, list):
        raise DataError(f"column {column!r} holds {kind_of(turns)}, not a list of turns")
    messages = [_message(turn, column) for turn in turns]
    if row.get("system"):
        messages.insert(0, {"role": "system", "content": row["system"]})
    return {"messages": messages, **_kept(row)}


def _message(turn: Any, column: str) -> Message:
    speaker, content = next(
        ((turn[who], turn[what]) for who, what in STYLES if turn.get(who)), (None, None)
    )
    if speaker == CALL:
        return {"role": "assistant", "content": "", "tool_calls": _calls(content)}
    if speaker not in ROLES:
        raise DataError(
            f"column {column!r}: nobody is called {speaker!r}\n  known: {', '.join([*ROLES, CALL])}"
        )
    more = {k: v for k, v in turn.items() if k not in ("from", "value", "role", "content")}
    return {"role": ROLES[speaker], "content": content, **more}


def _calls(text: Any) -> list[dict[str, Any]]:
    """Tool calls from JSON; the arguments stay text, since columns of a table have one type."""
    try:
        parsed = json.loads(text)
        calls = parsed if isinstance(parsed, list) else [parsed]
        return [
            {
                "type": "function",
                "function": {
                    "name": call["name"],
                    "arguments": json.dumps(call["arguments"], ensure_ascii=False),
                },
            }
            for call in calls
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(
            f"a {CALL} must be JSON with name and arguments, not {str(text)[:80]!r}"
        ) from error
