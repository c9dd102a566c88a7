"""Which of two answers is better, asked in both orders, since judges favour a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trl_deepseek.judging.asking import Endpoint, Question, ask
from trl_deepseek.judging.comparing import comparison, read_preference

BETTER = (
    "You judge which of two responses to a question is better: correct first, then as helpful as "
    "the question asks, then clear. Where a reference answer is given, a response that "
    "contradicts it is wrong."
)


@dataclass(frozen=True)
class Preference:
    """What a judge says of two answers in both orders.

    Attributes:
        value: 1.0 where the first answer wins, 0.0 where it loses, 0.5 for a tie; the mean of
            both orders.
        bias: How much the judge favours what stands first: 1.0 where that won in both orders,
            -1.0 where it lost in both, else 0.0 (0.5 where one order was a tie).
    """

    value: float
    bias: float


TIE = Preference(0.5, 0.0)


async def prefer(
    who: str,
    prompts: Sequence[Any],
    answers: Sequence[str],
    others: Sequence[str],
    references: Sequence[object] | None,
    endpoint: Endpoint,
    instructions: str = BETTER,
) -> list[Preference | None]:
    """Ask about each pair twice. Equal answers are a tie unasked.

    Source: swapping positions, LLM-as-a-judge, arXiv:2306.05685, section 3.4.

    Args:
        who: What needs the judge, for messages.
        prompts: What each pair answers.
        answers: The first of each pair, without reasoning.
        others: The second of each pair.
        references: Reference answers shown to the judge; None for none.
        endpoint: Which model judges.
        instructions: What to judge by.

    Returns:
        None where the judge was not sure in one of the orders, or a request failed.

    Raises:
        ConfigError: See :meth:`Endpoint.found`.
        openai.OpenAIError: Every request failed.
    """
    questions: list[Question | None] = []
    for place, (prompt, answer, other) in enumerate(zip(prompts, answers, others, strict=True)):
        known = None if references is None else references[place]
        for first, second in ((answer, other), (other, answer)):
            shown = comparison(instructions, prompt, known, first, second)
            questions.append(None if answer == other else shown)
    said = (await ask(who, questions, read_preference, endpoint)).values
    found: list[Preference | None] = []
    for asked, forward, backward in zip(questions[::2], said[::2], said[1::2], strict=True):
        if asked is None:
            found.append(TIE)
        elif forward is None or backward is None:
            found.append(None)
        else:
            found.append(Preference((forward + 1 - backward) / 2, forward + backward - 1))
    return found
