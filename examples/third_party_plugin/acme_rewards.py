"""ACME's rewards for trl-deepseek: found through the entry point in pyproject.toml."""

from __future__ import annotations

from collections.abc import Sequence

from trl_deepseek import hookimpl
from trl_deepseek.chat.reasoning import Completion, answer
from trl_deepseek.types import Register


@hookimpl
def register_rewards(register: Register) -> None:
    register("acme_terse", terse, samplewise=True)


def terse(
    completions: Sequence[Completion],
    generation_prefix: str | None = None,
    limit: int = 20,
    **_: object,
) -> list[float | None]:
    """1.0 for an answer of one word, falling to 0.0 at ``limit`` words; the reasoning is free.

    Abstains where there is no answer.
    """
    counts = [len(answer(completion, generation_prefix).split()) for completion in completions]
    return [max(0.0, 1 - (count - 1) / (limit - 1)) if count else None for count in counts]
