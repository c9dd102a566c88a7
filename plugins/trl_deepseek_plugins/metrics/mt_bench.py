"""MT-Bench: conversations of two turns, each answer graded from 1 to 10 by a judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trl_deepseek import hookimpl
from trl_deepseek.chat.reasoning import answer
from trl_deepseek.errors import ConfigError
from trl_deepseek.judging import Endpoint, ask, grading, read_score
from trl_deepseek.judging.asking import Question
from trl_deepseek.types import Register

SCALE = (1, 10)
INSTRUCTIONS = (
    "You grade the last answer of an assistant in a conversation: whether it does what the user "
    "asks for, is true, goes as deep as the question, and is clear. Where a reference answer is "
    "given, compare with it, and name the mistakes before you grade."
)


@hookimpl
def register_metrics(register: Register) -> None:
    register(
        "mt_bench", mt_bench, over="model", columns=("turns",), format_row=format_row, check=check
    )


def format_row(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A row of its question file: ``turns`` (two), ``category``, perhaps ``reference`` (two)."""
    turns = row["turns"]
    if isinstance(turns, str) or len(turns) != 2 or not all(isinstance(t, str) for t in turns):
        raise ValueError(f"'turns' must hold two texts, not {turns!r:.80}")
    reference = row.get("reference")
    if reference and (isinstance(reference, str) or len(reference) != 2):
        raise ValueError(f"'reference' must hold two texts, or nothing, not {reference!r:.80}")
    return {
        "prompt": [{"role": "user", "content": turns[0]}],
        "turns": list(turns),
        "category": str(row.get("category") or "none"),
        "reference": list(reference) if reference else None,
    }


def check(options: Mapping[str, Any], num_samples: int) -> str | None:
    """What is wrong with the options, or None."""
    if num_samples > 1:
        return f"a conversation has one answer per turn, not {num_samples}: leave num_samples at 1"
    if not isinstance(options["instructions"], str):
        return f"instructions are {options['instructions']!r}; they must be text"
    try:
        Endpoint.of("mt_bench", options["endpoint"])
    except ConfigError as error:
        return str(error)
    return None


async def mt_bench(
    dataset: Any,
    complete: Callable[[Sequence[Any]], Any],
    instructions: str = INSTRUCTIONS,
    endpoint: Mapping[str, Any] | None = None,
) -> list[dict[str, float] | None]:
    """The mean grade of a conversation's two answers, 1 to 10.

    The model answers the first turn, and the second after its own first answer, without that one's
    reasoning. Beside the mean over both stand ``turn_1``, ``turn_2`` and each category. Abstains
    where the judge is not sure of one of the two.

    Source: arXiv:2306.05685, single-answer grading; the wording for the judge is our own.

    Differs: there the temperature depends on the category; here it is the run's.

    Args:
        dataset: Rows as :func:`format_row` makes them.
        complete: Has the model answer.
        instructions: What the judge judges by.
        endpoint: As in ``win_rate``.
    """
    talks: list[list[dict[str, Any]]] = [[] for _ in dataset]
    rows = list(dataset)
    questions: list[Question] = []
    turns = []
    for turn in range(2):
        for talk, row in zip(talks, rows, strict=True):
            talk.append({"role": "user", "content": row["turns"][turn]})
        turns.append(complete(talks))
        for talk, row, (one,) in zip(talks, rows, turns[-1].completions, strict=True):
            given = answer(one.text, turns[-1].generation_prefix)
            reference = (row["reference"] or [None, None])[turn]
            questions.append(grading(instructions, SCALE, list(talk), reference, given))
            talk.append({"role": "assistant", "content": given})
    asked = Endpoint.of("mt_bench", endpoint)
    replies = await ask("mt_bench", questions, lambda reply: read_score(reply, SCALE), asked)
    grades = [None if share is None else _grade(share) for share in replies.values]
    first, second = grades[: len(rows)], grades[len(rows) :]
    for turn, own in zip(turns, (first, second), strict=True):
        turn.values["mt_bench"] = [[grade] for grade in own]
    return [_value(row, a, b) for row, a, b in zip(rows, first, second, strict=True)]


def _grade(share: float) -> float:
    least, most = SCALE
    return least + share * (most - least)


def _value(
    row: Mapping[str, Any], first: float | None, second: float | None
) -> dict[str, float] | None:
    if first is None or second is None:
        return None
    mean = (first + second) / 2
    return {"": mean, "turn_1": first, "turn_2": second, row["category"]: mean}
