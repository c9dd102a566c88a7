"""Rewards for the form of a completion, whatever it says."""

from __future__ import annotations

from collections.abc import Sequence

from trl_deepseek import hookimpl
from trl_deepseek.completions import CLOSE, OPEN, Completion, opens_thinking, texts
from trl_deepseek.types import Register


@hookimpl
def register_rewards(register: Register) -> None:
    register("think_format", think_format)


def think_format(
    completions: Sequence[Completion], generation_prefix: str | None = None, **_: object
) -> list[float]:
    """1.0 for one non-empty ``<think>...</think>`` followed by a non-empty answer, else 0.0.

    Nothing may stand before ``<think>``, and neither tag may occur again. Where the generation
    prompt has already written ``<think>``, the completion must not open it a second time; where
    it is not known what the prompt wrote (``generation_prefix`` is None), both forms count.

    Source: the format reward of arXiv:2501.12948, section 2.2.2. Differs from TRL's
    ``think_format_reward``, which gives 0.0 to every completion whose ``<think>`` stands in the
    prompt, and 1.0 to empty reasoning and to a missing answer.
    """
    may_open = not opens_thinking(generation_prefix)
    may_leave_out = generation_prefix is None or opens_thinking(generation_prefix)
    scores = []
    for said in texts(completions, generation_prefix):
        before, closed, answer = said.partition(CLOSE)
        opens = before.lstrip().startswith(OPEN)
        reasoning = before.lstrip().removeprefix(OPEN)
        right = bool(closed) and (may_open if opens else may_leave_out)
        right = right and OPEN not in reasoning + answer and CLOSE not in answer
        scores.append(float(right and bool(reasoning.strip()) and bool(answer.strip())))
    return scores
