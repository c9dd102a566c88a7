"""What a completion says: its text, its reasoning and its answer, in every form TRL hands it over.

A completion is a string or a list of messages. Its reasoning stands between ``<think>`` and
``</think>``; where the template's generation prompt has already opened ``<think>``, the opening
tag is not part of the completion.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OPEN = "<think>"
CLOSE = "</think>"
KEYS = ("reasoning_content", "reasoning", "thinking")  # of a message that has it apart

Completion = str | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Parts:
    """A completion taken apart.

    Attributes:
        reasoning: What stands before the last ``</think>``, without the opening tag; None where
            the completion does not reason. Reasoning that was never closed is all of the text.
        answer: What follows the last ``</think>``, or the whole text where there is no reasoning;
            None where the reasoning was never closed, so that no answer was given.
    """

    reasoning: str | None
    answer: str | None


def text(completion: Completion, generation_prefix: str | None = None) -> str:
    """The text of a completion: the string itself, or what its last assistant message says.

    Reasoning that the tokenizer's parser has moved to ``reasoning_content`` is put back as it was
    generated: without ``<think>`` where the prompt ended with it.
    """
    if isinstance(completion, str):
        return completion
    for message in reversed(completion):
        if message.get("role", "assistant") == "assistant":
            said = _content(message.get("content"))
            reasoning = message.get("reasoning_content")
            start = "" if opens_thinking(generation_prefix) else OPEN
            return f"{start}{reasoning}{CLOSE}{said}" if reasoning else said
    return ""


def texts(completions: Iterable[Completion], generation_prefix: str | None = None) -> list[str]:
    """:func:`text` of each."""
    return [text(completion, generation_prefix) for completion in completions]


def split(completion: Completion, generation_prefix: str | None = None) -> Parts:
    r"""Take a completion apart into reasoning and answer.

    Args:
        completion: A string or messages.
        generation_prefix: What the generation prompt writes after the assistant header, such as
            ``<think>\n``; None where it is not known.
    """
    said = text(completion, generation_prefix)
    opened = said.lstrip().startswith(OPEN)
    if CLOSE in said:
        reasoning, _, answer = said.rpartition(CLOSE)
        return Parts(reasoning.lstrip().removeprefix(OPEN) if opened else reasoning, answer)
    if opened or opens_thinking(generation_prefix):
        return Parts(said.lstrip().removeprefix(OPEN), None)
    return Parts(None, said)


def answer(completion: Completion, generation_prefix: str | None = None) -> str:
    """The stripped answer; empty where the reasoning was never closed."""
    return (split(completion, generation_prefix).answer or "").strip()


def opens_thinking(generation_prefix: str | None) -> bool:
    """Whether the prompt ends inside ``<think>``."""
    prefix = generation_prefix or ""
    return prefix.rfind(OPEN) > prefix.rfind(CLOSE)


def inline(said: str) -> str:
    """The reasoning that a text begins with, without its tags; empty where it has none."""
    found = _INLINE.match(said)
    return found[1] if found else ""


def is_unclosed(said: str) -> bool:
    """Whether a text begins with reasoning that never ends."""
    return said.lstrip().startswith(OPEN) and CLOSE not in said


def _content(content: Any) -> str:
    """A message's content as text: a string, typed parts of it, or nothing (tool calls alone)."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if part.get("type", "text") == "text")


def token_counts(
    completions: Sequence[object], completion_ids: Sequence[Sequence[int]]
) -> list[int]:
    """Tokens of each completion.

    Raises:
        ValueError: The token ids of some are missing.
    """
    if len(completion_ids) != len(completions):
        raise ValueError(
            f"{len(completions)} completions but token ids of {len(completion_ids)}: this reward "
            "counts tokens and needs completion_ids"
        )
    return [len(ids) for ids in completion_ids]


_INLINE = re.compile(rf"\s*{OPEN}(.+?){CLOSE}", re.DOTALL)
