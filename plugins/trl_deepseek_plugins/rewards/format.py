"""Rewards for the form of a completion, whatever it says."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from trl_deepseek import hookimpl
from trl_deepseek.answers import boxed, turn, whole_answer
from trl_deepseek.chat.reasoning import (
    CLOSE,
    OPEN,
    Completion,
    answer,
    opens_thinking,
    texts,
)
from trl_deepseek.rewards.columns import options_from_columns
from trl_deepseek.types import Register

_ANSWER_TAGS = ("<answer>", "</answer>")
_ANSWER = re.compile(r"\s*<answer>(?P<inside>.*)</answer>\s*", re.DOTALL)
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(?P<inside>.*?)\n?```", re.DOTALL | re.IGNORECASE)


@hookimpl
def register_rewards(register: Register) -> None:
    register("think_format", think_format, samplewise=True)
    register("answer_format", answer_format, samplewise=True)
    register("tag_count", tag_count, samplewise=True)
    register("boxed_format", boxed_format, samplewise=True)
    register("json_format", json_format, samplewise=True)


def think_format(
    completions: Sequence[Completion], generation_prefix: str | None = None, **_: object
) -> list[float]:
    """1.0 for one non-empty ``<think>...</think>`` followed by a non-empty answer, else 0.0.

    Nothing may stand before ``<think>``, and neither tag may occur again. Where the generation
    prompt has already written ``<think>``, the completion must not open it a second time; where
    it is not known what the prompt wrote (``generation_prefix`` is None), both forms count.

    Range: 0.0 or 1.0.

    Source: the format reward of arXiv:2501.12948, section 2.2.2.

    Differs: TRL's ``think_format_reward`` gives 0.0 to every completion whose ``<think>`` stands in
    the prompt, and 1.0 to empty reasoning and to a missing answer.
    """
    found = [
        _after_thinking(said, generation_prefix) for said in texts(completions, generation_prefix)
    ]
    return [float(rest is not None and bool(rest.strip())) for rest in found]


def answer_format(
    completions: Sequence[Completion], generation_prefix: str | None = None, **_: object
) -> list[float]:
    """1.0 for ``<think>...</think><answer>...</answer>`` and nothing else, else 0.0.

    Both must hold something, each tag occurs once, and only white space may stand around and
    between them. What the prompt has opened counts as in :func:`think_format`.

    Range: 0.0 or 1.0.

    Source: the template of arXiv:2501.12948, table 1.

    Differs: open-r1's ``format`` wants a line break on both sides of every tag, and ``<think>`` in
    the completion.
    """
    scores = []
    for said in texts(completions, generation_prefix):
        found = _ANSWER.fullmatch(_after_thinking(said, generation_prefix) or "")
        once = all(said.count(tag) == 1 for tag in _ANSWER_TAGS)
        scores.append(float(found is not None and once and bool(found["inside"].strip())))
    return scores


def tag_count(
    completions: Sequence[Completion], generation_prefix: str | None = None, **_: object
) -> list[float]:
    """A quarter for each of the four tags of :func:`answer_format` that occurs exactly once.

    A ``<think>`` that the prompt has opened counts as the one.

    Range: 0.0 to 1.0.

    Source: open-r1's ``tag_count``.

    Differs: there line breaks are needed around the tags, and ``<think>`` in the completion.
    """
    opened = int(opens_thinking(generation_prefix))
    scores = []
    for said in texts(completions, generation_prefix):
        counts = [said.count(OPEN) + opened, *(said.count(tag) for tag in (CLOSE, *_ANSWER_TAGS))]
        scores.append(sum(count == 1 for count in counts) / 4)
    return scores


def boxed_format(
    completions: Sequence[Completion], generation_prefix: str | None = None, **_: object
) -> list[float]:
    r"""1.0 where the answer holds exactly one ``\boxed{...}``, not empty, else 0.0.

    Boxes in the reasoning do not count, nor do placeholders such as ``\boxed{your answer}``.

    Range: 0.0 or 1.0.

    Source: how answers to MATH are marked, arXiv:2103.03874.
    """
    boxes = [boxed(turn(answer(completion, generation_prefix))) for completion in completions]
    return [float(len(found) == 1 and bool(found[0].strip())) for found in boxes]


@options_from_columns("keys")
def json_format(
    completions: Sequence[Completion],
    generation_prefix: str | None = None,
    keys: Sequence[str] = (),
    **_: object,
) -> list[float]:
    """1.0 where the answer is one JSON value and nothing else, else 0.0.

    It may stand in ``<answer>``, and in one ``json`` code block. NaN and Infinity are not JSON.

    Range: 0.0 or 1.0.

    Source: RFC 8259.

    Args:
        completions: TRL's.
        generation_prefix: What the prompt has opened.
        keys: Where given, the value must be an object with all of these.
    """
    scores = []
    for completion in completions:
        given = whole_answer(answer(completion, generation_prefix))
        fence = _FENCE.fullmatch(given)
        value = _json(fence["inside"] if fence else given)
        fits = value is not _NOTHING and (not keys or isinstance(value, dict))
        scores.append(float(fits and all(key in value for key in keys)))
    return scores


_NOTHING = object()


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _NOTHING


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _after_thinking(said: str, generation_prefix: str | None) -> str | None:
    """What follows well-formed, non-empty reasoning; None where it is not that."""
    opened = opens_thinking(generation_prefix)
    before, closed, rest = said.partition(CLOSE)
    opens = before.lstrip().startswith(OPEN)
    reasoning = before.lstrip().removeprefix(OPEN)
    right = not opened if opens else opened or generation_prefix is None
    if not closed or not right or OPEN in reasoning + rest or CLOSE in rest:
        return None
    return rest if reasoning.strip() else None
