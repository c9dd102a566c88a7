r"""Layouts that preference data comes in, recognised by their columns and first row.

    pairs      prompt, chosen, rejected     TRL's explicit prompt; text or messages
               chosen, rejected             TRL's implicit prompt: it starts both
    UltraFeedback   prompt (text), chosen and rejected (whole conversations)
    HH         chosen and rejected: "\n\nHuman: ... \n\nAssistant: ..." as one text
    Orca       system, question (or input), chosen, rejected: four texts
    singles    prompt, completion, label    labelled examples

The last three of pairs, and a prompt and completions of which one is text and the other messages,
are rewritten as conversations with an explicit prompt. The rest is TRL's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trl_deepseek.data.values import fault_of_turns
from trl_deepseek.errors import DataError
from trl_deepseek.types import Messages

Row = Mapping[str, Any]

# Where reward models had their tokens before TRL 0.24, and where they are.
OLD_TOKENS = {"input_ids_chosen": "chosen_ids", "input_ids_rejected": "rejected_ids"}
HH_START = "\n\nHuman:"
HH_TURN = re.compile(r"\n\n(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}
KEPT = (
    "tools",
    "chat_template_kwargs",
    "image",
    "images",
    "margin",
)  # columns that a rewritten row keeps


@dataclass(frozen=True)
class Layout:
    """One way to lay out preference data.

    Attributes:
        name: What to call it to the user.
        kind: ``pairs``, ``singles``, or ``tokens`` where TRL has been over it already.
        rewrite: Row to row with prompt, chosen and rejected; None where TRL takes it as it is.
        question: Column that holds the prompt's text where it is not called ``prompt``.
        dialogue: Whether chosen and rejected are whole dialogues in one text.
    """

    name: str
    kind: Literal["pairs", "singles", "tokens"]
    rewrite: Callable[[Row], dict[str, Any]] | None = None
    question: str | None = None
    dialogue: bool = False


def recognise(columns: Sequence[str], row: Row, source: str = "the dataset") -> Layout:
    """The layout of a dataset.

    Raises:
        DataError: It is none of them; says which columns are there and which would do.
    """
    found = set(columns)
    if "prompt_ids" in found:
        return Layout("tokenized", "tokens")
    if {"chosen", "rejected"} <= found:
        return _pairs(found, row, source)
    if {"prompt", "completion", "label"} <= found:
        return Layout("labelled singles", "singles")
    old = [name for name in OLD_TOKENS if name in found]
    if old:
        renamed = " ".join(f"{name}={OLD_TOKENS[name]}" for name in old)
        raise DataError(
            f"{source} holds tokens in columns that TRL no longer reads: {', '.join(old)}\n"
            f"  rename them: --columns {renamed}"
        )
    raise DataError(
        f"{source} is not preference data: its columns are {', '.join(columns)}\n"
        "  pairs need chosen and rejected (and prompt, unless both start with it)\n"
        "  labelled singles need prompt, completion and label"
    )


def _pairs(found: set[str], row: Row, source: str) -> Layout:
    chosen, rejected = row["chosen"], row["rejected"]
    for column in ("chosen", "rejected"):
        fault = fault_of_turns(row[column])
        if fault is not None:
            raise DataError(f"{source}: row 0: column {column!r} {fault}")
    is_text = isinstance(chosen, str) and isinstance(rejected, str)
    question = next((name for name in ("question", "input") if name in found), None)
    if "prompt" not in found and is_text and question is not None:
        return Layout("Orca-style rows", "pairs", lambda row: _orca(row, question), question)
    if "prompt" not in found and is_text and chosen.startswith(HH_START):
        return Layout("HH-style dialogues", "pairs", _hh, dialogue=True)
    if "prompt" not in found:
        return Layout("pairs with an implicit prompt", "pairs")
    prompt = row["prompt"]
    if isinstance(prompt, str) and isinstance(chosen, list) and _starts_with_prompt(chosen):
        return Layout("UltraFeedback-style rows", "pairs", _ultrafeedback)
    if isinstance(prompt, str) != is_text:
        return Layout("pairs that mix text and messages", "pairs", _mixed)
    return Layout("pairs", "pairs")


def _starts_with_prompt(messages: Messages) -> bool:
    return len(messages) > 1 and messages[0]["role"] != "assistant"


def _rewritten(row: Row, prompt: Messages, chosen: Any, rejected: Any) -> dict[str, Any]:
    extra = {name: row[name] for name in KEPT if name in row}
    return {
        "prompt": prompt,
        "chosen": _as_completion(chosen),
        "rejected": _as_completion(rejected),
        **extra,
    }


def _as_completion(completion: Any) -> Messages:
    if isinstance(completion, str):
        return [{"role": "assistant", "content": completion}]
    return list(completion)


def _ultrafeedback(row: Row) -> dict[str, Any]:
    """Both conversations start with the prompt; the column ``prompt`` repeats it as text."""
    chosen, rejected = row["chosen"], row["rejected"]
    same = 0
    while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
        same += 1
    return _rewritten(row, chosen[:same], chosen[same:], rejected[same:])


def _orca(row: Row, question: str) -> dict[str, Any]:
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    prompt = [*system, {"role": "user", "content": row[question]}]
    return _rewritten(row, prompt, row["chosen"], row["rejected"])


def _mixed(row: Row) -> dict[str, Any]:
    prompt = row["prompt"]
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return _rewritten(row, messages, row["chosen"], row["rejected"])


def _hh(row: Row) -> dict[str, Any]:
    chosen, rejected = _hh_turns(row["chosen"]), _hh_turns(row["rejected"])
    same = 0
    while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
        same += 1
    return _rewritten(row, chosen[:same], chosen[same:], rejected[same:])


def _hh_turns(text: str) -> Messages:
    parts = HH_TURN.split(text)  # "", role, content, role, content, ...
    return [
        {"role": HH_ROLES[role], "content": content.strip()}
        for role, content in zip(parts[1::2], parts[2::2], strict=True)
    ]
