"""Rewards that compare the answer with the solution as text."""

from __future__ import annotations

from collections.abc import Sequence

from trl_deepseek import hookimpl
from trl_deepseek.completions import Completion, answer
from trl_deepseek.types import Register


@hookimpl
def register_rewards(register: Register) -> None:
    register("exact_match", exact_match, columns=("solution",))


def exact_match(
    completions: Sequence[Completion],
    solution: Sequence[object],
    generation_prefix: str | None = None,
    **_: object,
) -> list[float | None]:
    """1.0 where the answer is the solution, character for character, else 0.0.

    The answer is what follows the reasoning: all after the last ``</think>`` where there is one,
    without surrounding white space. Reasoning that was never closed has no answer and scores 0.0.
    Abstains where the solution is None or blank.
    """
    return [
        float(answer(completion, generation_prefix) == gold) if gold else None
        for completion, gold in zip(completions, _golds(solution), strict=True)
    ]


def _golds(solution: Sequence[object]) -> list[str]:
    """The solutions as text; a number column of a dataset is one too."""
    return ["" if gold is None else str(gold).strip() for gold in solution]
