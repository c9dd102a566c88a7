"""Rewards for a right answer to a mathematical question, by symbolic comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from trl_deepseek import hookimpl
from trl_deepseek.completions import Completion, answer
from trl_deepseek.time_limit import call_each
from trl_deepseek.types import Register


@hookimpl
def register_rewards(register: Register) -> None:
    register("math_accuracy", math_accuracy, columns=("solution",))


def math_accuracy(
    completions: Sequence[Completion],
    solution: Sequence[object],
    generation_prefix: str | None = None,
    seconds: float = 5.0,
    **_: object,
) -> list[float | None]:
    r"""1.0 where the answer equals the solution mathematically, else 0.0.

    The answer is what follows the reasoning. Of it counts a ``\boxed{}``, else other LaTeX, else
    "the answer is 4", else all of it if it is nothing but an expression. An answer that cannot be
    compared within ``seconds`` scores 0.0. Abstains where the solution is None or holds no
    expression, or cannot be read within ``seconds``.

    Source: math-verify, the comparison behind TRL's ``accuracy_reward``. Differs from it in that
    only the answer counts, not the reasoning; that it need not be LaTeX; and that the time limit
    holds in every thread and inside C code.
    """
    golds = ["" if gold is None else str(gold) for gold in solution]
    answers = [answer(completion, generation_prefix) for completion in completions]
    distinct = list(dict.fromkeys(golds))
    readable = dict(zip(distinct, _ask([(gold, None) for gold in distinct], seconds), strict=True))
    pairs = list(dict.fromkeys(zip(golds, answers, strict=True)))  # samples often repeat
    pairs = [(gold, given) for gold, given in pairs if readable[gold] and given]
    right = dict(zip(pairs, _ask(pairs, seconds), strict=True))
    return [
        float(right.get((gold, given), False)) if readable[gold] else None
        for gold, given in zip(golds, answers, strict=True)
    ]


def _ask(questions: Sequence[tuple[str, str | None]], seconds: float) -> list[bool]:
    """Answers of :func:`_checker`, False where there was none in time."""
    return [found is True for found in call_each(_checker, questions, seconds)]


def _checker() -> Callable[[tuple[str, str | None]], bool]:
    """Import math-verify; the result tells whether ``(solution, answer)`` are equal.

    With None in the place of an answer it tells whether the solution can be read.
    """
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    latex = LatexExtractionConfig(
        normalization_config=NormalizationConfig(units=True),
        boxed_match_priority=0,  # before any other LaTeX
        try_extract_without_anchor=False,
    )
    plain = ExprExtractionConfig(try_extract_without_anchor=False)

    @lru_cache(maxsize=4096)
    def read_solution(gold: str) -> Any:
        return parse(gold, parsing_timeout=None)

    def read_answer(given: str) -> Any:
        for text, config in [(given, latex), (given, plain), (f"\\boxed{{{given}}}", latex)]:
            found = parse(
                text,
                extraction_config=[config],
                extraction_mode="first_match",
                parsing_timeout=None,
            )
            if found:
                return found
        return []

    def check(question: tuple[str, str | None]) -> bool:
        gold, given = question
        try:
            expected = read_solution(gold)
            if given is None:
                return bool(expected)
            return bool(verify(expected, read_answer(given), timeout_seconds=None))
        except (MemoryError, RecursionError):  # an answer too large to hold
            return False

    return check
