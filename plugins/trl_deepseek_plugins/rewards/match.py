"""Rewards that compare the answer with the solution: as text, as a number, as a choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trl_deepseek import hookimpl
from trl_deepseek.answers import chosen, claims, numbers_agree, solution_text
from trl_deepseek.answers.choices import letter_of
from trl_deepseek.chat.reasoning import Completion, answer
from trl_deepseek.rewards.columns import options_from_columns
from trl_deepseek.types import Register


@hookimpl
def register_rewards(register: Register) -> None:
    register("exact_match", exact_match, columns=("solution",), samplewise=True)
    register("numeric_match", numeric_match, columns=("solution",), samplewise=True)
    register("multiple_choice", multiple_choice, columns=("solution",), samplewise=True)


def exact_match(
    completions: Sequence[Completion],
    solution: Sequence[object],
    generation_prefix: str | None = None,
    prompts: Sequence[Any] | None = None,
    **_: object,
) -> list[float | None]:
    r"""1.0 where the answer is the solution, character for character, else 0.0.

    The answer is found as in every first-party reward, see ``trl_deepseek.answers``; all that
    follows the reasoning counts too, without surrounding white space. Reasoning that was never
    closed has no answer and scores 0.0. Abstains where the solution is None or blank.

    Range: 0.0 or 1.0.

    Source: the exact match of arXiv:1606.05250, section 6.1, without its normalisation.
    """
    scores: list[float | None] = []
    asked = prompts if prompts is not None else [None] * len(completions)
    for completion, row, prompt in zip(completions, solution, asked, strict=True):
        whole = "" if row is None else str(row).strip()
        said = answer(completion, generation_prefix)
        found = claims(said, prompt)
        golds = {whole, solution_text(row).strip()} - {""}
        right = said == whole or (bool(found) and all(claim in golds for claim in found))
        scores.append(float(right) if whole else None)
    return scores


@options_from_columns("relative", "absolute")
def numeric_match(
    completions: Sequence[Completion],
    solution: Sequence[object],
    generation_prefix: str | None = None,
    relative: float = 1e-6,
    absolute: float = 0.0,
    prompts: Sequence[Any] | None = None,
    **_: object,
) -> list[float | None]:
    r"""1.0 where the answer's number is the solution's, within a tolerance, else 0.0.

    The answer is found as in every first-party reward, see ``trl_deepseek.answers``; all of it
    has to be one number, perhaps with a unit. Decimals, thousands separators, powers of ten,
    fractions, mixed numbers, percentages and prices are read; roots and formulas are not, they
    are for ``math_accuracy``. A unit counts where both have one. Two whole numbers are compared
    exactly unless ``relative`` allows more than 1e-6. Abstains where the solution is no number.

    Range: 0.0 or 1.0.

    Source: how answers to GSM8K are graded, arXiv:2110.14168.

    Args:
        completions: TRL's.
        solution: Numbers, or texts that are one or mark one (``#### 72``).
        generation_prefix: What the prompt has opened.
        relative: Largest difference as a share of the larger of the two.
        absolute: Largest difference as it is.
        prompts: TRL's; a line of it that shows a box is no answer when repeated.
    """
    asked = prompts if prompts is not None else [None] * len(completions)
    return [
        None if right is None else float(right)
        for right in (
            numbers_agree(
                row, claims(answer(completion, generation_prefix), prompt), relative, absolute
            )
            for completion, row, prompt in zip(completions, solution, asked, strict=True)
        )
    ]


def multiple_choice(
    completions: Sequence[Completion],
    solution: Sequence[object],
    generation_prefix: str | None = None,
    prompts: Sequence[Any] | None = None,
    **_: object,
) -> list[float | None]:
    r"""1.0 where the answer chooses the solution's letter, else 0.0.

    The choice is the letter in ``<answer>`` or in the last ``\boxed{}`` of the answer, else the one
    stated ("the answer is (B)", "I choose B", "答案是 B"), else the answer itself if it is one
    letter, else the letter that it begins with ("B. Paris"). Several letters, and anything else,
    choose nothing. Abstains where the solution is None or blank.

    Range: 0.0 or 1.0.

    Source: the four-way questions of MMLU, arXiv:2009.03300; any letter is a choice here.

    Raises:
        ValueError: A solution is not a letter: a number could count from 0 or from 1.
    """
    asked = prompts if prompts is not None else [None] * len(completions)
    scores: list[float | None] = []
    for completion, row, prompt in zip(completions, solution, asked, strict=True):
        gold = "" if row is None else str(row).strip()
        if not gold:
            scores.append(None)
            continue
        letter = letter_of(solution_text(gold))
        if letter is None:
            raise ValueError(
                f"the solution of a multiple-choice question is a letter, not {gold!r}"
            )
        scores.append(float(chosen(answer(completion, generation_prefix), prompt) == letter))
    return scores
