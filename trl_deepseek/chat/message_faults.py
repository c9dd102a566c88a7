"""What is wrong with messages as they stand, before anything renders them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trl_deepseek.chat import reasoning
from trl_deepseek.chat.messages import ANSWERS, Conversation, reasoning_of, text_of

COMMON = ("system", "user", "assistant")
ASKERS = ("system", "developer", "user", "tool")  # who never answers


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a row: what, and what to do about it."""

    what: str
    way_out: str


def unlearnable(
    messages: Conversation, column: str, *, masks: bool, thinks: bool
) -> Iterator[Fault]:
    """Assistant messages that cannot be targets as they stand.

    Args:
        messages: Of a column that is trained on.
        column: Its name.
        masks: Whether the loss is taken by the template's marks, so that a message may opt out.
        thinks: Whether ``<think>`` in a message is reasoning, and no text about it.
    """
    if column in ANSWERS and (last := messages[-1].get("role")) in ASKERS:
        yield Fault(
            f"the last message of {column} is the {last}'s, and the model would learn to write it",
            "end it with the assistant's; what comes before the answer is the prompt",
        )
    answers = [m for m in messages if m.get("role") == "assistant"]
    if any(reasoning.is_unclosed(text_of(m)) for m in answers):
        yield Fault(
            f"an assistant message opens {reasoning.OPEN} and does not close it: what follows "
            "would be trained as the answer",
            f"close it with {reasoning.CLOSE}, or leave the row out: it was cut off",
        )
    if any(m.get("prefix") for m in answers):
        yield Fault(
            f"{column} has an assistant message with prefix true, which is to be continued: it "
            "would be trained to end there",
            "write the whole answer without prefix, or leave the row out",
        )
    if thinks and any(map(_thinks_again, answers)):
        yield Fault(
            "an assistant message has more reasoning than one thought at its start: the rest would "
            "be trained as the answer",
            f"leave one {reasoning.OPEN}...{reasoning.CLOSE} in front of the answer, or one key "
            "such as reasoning_content; --control_tokens escape takes the others as text",
        )
    if any(
        m.get("weight") not in (0, 1, None) or m.get("train") not in (True, False, None)
        for m in answers
    ):
        yield Fault(
            "an assistant message has a weight other than 0 and 1, or a train that is no boolean",
            "a message is trained on or not: write 0 or 1, true or false",
        )
    untrained = [m for m in answers if m.get("train") is False or m.get("weight") == 0]
    if untrained and column in ANSWERS:
        yield Fault(
            f"{column} has an assistant message with train false or weight 0, and all of it is "
            "a target",
            "move it into the prompt, which carries no loss",
        )
    elif untrained and not masks:
        yield Fault(
            "an assistant message has train false or weight 0, and the loss is not taken by "
            "message",
            "use a registered chat template and leave assistant_only_loss at its default",
        )
    elif untrained and len(untrained) == len(answers):
        yield Fault(
            "every assistant message has train false or weight 0, so that nothing is learned",
            "leave the row out",
        )


def misplaced(
    prompt: Conversation, answer: Conversation, column: str, *, masks: bool
) -> Iterator[Fault]:
    """An answer behind a prompt that begins with what is the prompt's.

    Args:
        prompt: The row's own; it is written in front of the answer.
        answer: Of ``column``.
        column: ``completion``, ``chosen`` or ``rejected``.
        masks: Whether the loss is taken by the template's marks, so that questions carry none.
    """
    if [*map(_present, answer[: len(prompt)])] == [*map(_present, prompt)]:
        yield Fault(
            f"{column} begins with the prompt, which would stand there twice",
            "take it out of the answer; or, where the answers are whole conversations, do without "
            "the column prompt",
        )
    elif not masks and answer[0].get("role") in ("system", "developer", "user"):
        yield Fault(
            f"{column} begins with a message of the {answer[0]['role']}, which would be learned "
            "as an answer",
            "what comes before the answer is the prompt: put it there",
        )


def _present(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without the keys that a table fills with None."""
    return {key: value for key, value in message.items() if value is not None}


def _thinks_again(message: Mapping[str, Any]) -> bool:
    """Whether a message has a thought besides the one that it begins with."""
    said = text_of(message)
    apart = any(message.get(key) for key in reasoning.KEYS)
    before, closed, rest = said.partition(reasoning.CLOSE)
    if not closed:
        rest, before = said, ""
    elif apart:
        return True
    return (
        reasoning.OPEN in before.lstrip().removeprefix(reasoning.OPEN)
        or (reasoning.OPEN in rest and not reasoning.is_unclosed(said))
        or reasoning.CLOSE in rest
    )


def unreadable(message: Mapping[str, Any], number: int) -> Iterator[Fault]:
    """A message without a role, or with content or reasoning that is no text."""
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or not role:
        yield Fault(f"message {number} has no role", f"roles are {', '.join(COMMON)} and tool")
        return
    if content is None and not (
        role == "assistant" and (message.get("tool_calls") or reasoning_of(message))
    ):
        yield Fault(
            f"the {role} message {number} has no content (null)",
            'write "" where nothing is said, or leave the row out',
        )
    parts = content if isinstance(content, list) else []
    if any(
        isinstance(p, Mapping) and p.get("type") == "text" and not isinstance(p.get("text"), str)
        for p in parts
    ):
        yield Fault(
            f"the {role} message {number} has a part of type text without a text",
            'write "" where nothing is said, or leave the part out',
        )
    for key in reasoning.KEYS:
        thought = message.get(key)
        if thought is not None and not isinstance(thought, str):
            yield Fault(
                f"the {role} message {number} has a {key} that is no text", "write it as text"
            )
        elif thought and role != "assistant":
            yield Fault(
                f"the {role} message {number} has a {key}, which only an assistant's is written of",
                "remove it, or make it content",
            )
