"""Files of mathematical problems, MATH's and GSM8K's, judged as ``math_accuracy`` judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trl_deepseek import hookimpl, pass_at
from trl_deepseek.types import Register

ASK = "\n\nReason step by step, and end with the answer in \\boxed{}."
ASKED_IN, SOLVED_IN = ("problem", "question"), ("solution", "answer")


@hookimpl
def register_metrics(register: Register) -> None:
    register(
        "math",
        math,
        over="groups",
        judge="math_accuracy",
        format_row=format_row,
        check=pass_at.check,
    )


def format_row(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A row with ``prompt`` and ``solution``, of one with a problem and its worked solution.

    MATH's rows have ``problem`` and ``solution``, with the answer in its last box; GSM8K's
    ``question`` and ``answer``, with the answer after ``####``. A row with ``prompt`` stays.
    """
    if "prompt" in row:
        return dict(row)
    asked = next((name for name in ASKED_IN if name in row), None)
    solved = next((name for name in SOLVED_IN if name in row), None)
    if asked is None or solved is None:
        raise ValueError(
            "it needs 'problem' and 'solution' (MATH), 'question' and 'answer' (GSM8K), or "
            "'prompt' and 'solution'"
        )
    others = {name: value for name, value in row.items() if name not in (asked, solved)}
    prompt = [{"role": "user", "content": f"{row[asked]}{ASK}"}]
    return {**others, "prompt": prompt, "solution": row[solved]}


def math(
    scores: Sequence[float | None], k: int | Sequence[int] = 1
) -> float | dict[str, float] | None:
    """The share of answers that are right: ``pass_at_k`` for k = 1, or for other k.

    Right is what ``math_accuracy`` says, or the reward that the option ``judge`` names. Abstains
    where that does.

    Source: MATH, arXiv:2103.03874; GSM8K, arXiv:2110.14168; pass@k, arXiv:2107.03374, equation 1.

    Differs: their own graders compare text after normalising it; this one compares values.

    Args:
        scores: Of the answers to one problem.
        k: One number, or several.
    """
    return pass_at.pass_at_k(scores, k)
