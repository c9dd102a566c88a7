"""MT-Bench: conversations of two turns, each answer graded from 1 to 10 by a judge."""

from __future__ import annotations

from collections.abc import Mapping
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
    model: Any,
    tokenizer: Any,
    dataset: Any,
    sampling: Any,
    progress: str | None = None,
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
        model: Answers.
        tokenizer: With its template.
        dataset: Rows as :func:`format_row` makes them.
        sampling: How answers are drawn.
        progress: What bars are called.
        instructions: What the judge judges by.
        endpoint: As in ``win_rate``.
    """
    from trl_deepseek import chat, generation

    prefix = chat.generation_prefix(tokenizer)
    talks: list[list[dict[str, Any]]] = [[] for _ in dataset]
    rows = list(dataset)
    questions: list[Question] = []
    for turn in range(2):
        for talk, row in zip(talks, rows, strict=True):
            talk.append({"role": "user", "content": row["turns"][turn]})
        said = generation.complete(model, tokenizer, talks, sampling, progress=progress)
        for talk, row, (one,) in zip(talks, rows, said, strict=True):
            given = answer(one.text, prefix)
            reference = (row["reference"] or [None, None])[turn]
            questions.append(grading(instructions, SCALE, list(talk), reference, given))
            talk.append({"role": "assistant", "content": given})
    asked = Endpoint.of("mt_bench", endpoint)
    replies = await ask("mt_bench", questions, lambda reply: read_score(reply, SCALE), asked)
    shares = replies.values
    first, second = shares[: len(rows)], shares[len(rows) :]
    return [_value(row, a, b) for row, a, b in zip(rows, first, second, strict=True)]


def _value(
    row: Mapping[str, Any], first: float | None, second: float | None
) -> dict[str, float] | None:
    if first is None or second is None:
        return None
    least, most = SCALE
    grades = [least + share * (most - least) for share in (first, second)]
    mean = sum(grades) / 2
    return {"": mean, "turn_1": grades[0], "turn_2": grades[1], row["category"]: mean}
