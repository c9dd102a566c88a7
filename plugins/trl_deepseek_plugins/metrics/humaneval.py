"""Files in HumanEval's format: functions to complete, run against their tests in the sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trl_deepseek import hookimpl, pass_at
from trl_deepseek.types import Register

ASK = "Complete this function. Answer with the whole of it, imports included, in one block of code."


@hookimpl
def register_metrics(register: Register) -> None:
    register(
        "humaneval",
        humaneval,
        over="groups",
        judge="code_tests",
        columns=("test", "entry_point"),
        format_row=format_row,
        check=pass_at.check,
    )


def format_row(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A row whose ``prompt``, the head of a function, stands in a question."""
    prompt = row["prompt"]
    if not isinstance(prompt, str):
        return dict(row)
    question = f"{ASK}\n\n```python\n{prompt.rstrip()}\n```"
    return {**row, "prompt": [{"role": "user", "content": question}]}


def humaneval(
    scores: Sequence[float | None], k: int | Sequence[int] = 1
) -> float | dict[str, float] | None:
    """The share of answers that pass all tests: ``pass_at_k`` for k = 1, or for other k.

    The answer's code runs as in ``code_tests``, against ``check(entry_point)``.

    Source: arXiv:2107.03374, equation 1.

    Differs: there the model goes on from the head of the function as text; here it is asked, as
    those that were trained to follow instructions are, for the whole function.

    Args:
        scores: Of the answers to one problem: the share of tests passed.
        k: One number, or several.
    """
    return pass_at.pass_at_k(scores, k)
