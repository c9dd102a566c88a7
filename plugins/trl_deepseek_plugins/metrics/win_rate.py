"""How often a model's answer is preferred to another one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trl_deepseek import hookimpl
from trl_deepseek.chat.reasoning import CLOSE, Completion, answer, opens_thinking, text
from trl_deepseek.errors import ConfigError, DataError
from trl_deepseek.judging import Endpoint, prefer
from trl_deepseek.judging.both_orders import BETTER
from trl_deepseek.types import DatasetKind, Register

AGAINST: dict[str, DatasetKind] = {"first": "prompts", "reference": "demonstrations"}


@hookimpl
def register_metrics(register: Register) -> None:
    register("win_rate", win_rate, rows=rows, check=check)


def rows(options: Mapping[str, Any]) -> DatasetKind:
    """Reference answers are what demonstrations show."""
    return AGAINST.get(str(options["against"]), "prompts")


def check(options: Mapping[str, Any], models: int | None) -> str | None:
    """What is wrong with the options, or with a model alone; None where it is well."""
    found = _fault(options)
    if found is None and options["against"] == "first" and models == 1:
        return (
            "it compares with the first of the models, and there is one alone\n"
            "  name another in --models of evaluate; or compare with the answers that the data "
            'shows: \'{"win_rate": {"against": "reference"}}\''
        )
    return found


def _fault(options: Mapping[str, Any]) -> str | None:
    if options["against"] not in AGAINST:
        return f"against is {options['against']!r}; it must be one of {', '.join(AGAINST)}"
    if not isinstance(options["instructions"], str):
        return f"instructions are {options['instructions']!r}; they must be text"
    if options["judge"] is not None:
        return "endpoint is for a judge that is asked" if options["endpoint"] else None
    try:
        Endpoint.of("win_rate", options["endpoint"])
    except ConfigError as error:
        hint = "" if options["endpoint"] else "\n  or let a reward judge: the option 'judge'"
        return f"{error}{hint}"
    return None


async def win_rate(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    answers: Mapping[str, Sequence[str]],
    reference: Sequence[str] | None = None,
    generation_prefix: str | None = None,
    score: Callable[[Sequence[str]], list[float | None]] | None = None,
    against: str = "first",
    instructions: str = BETTER,
    endpoint: Mapping[str, Any] | None = None,
) -> list[dict[str, float] | None]:
    """1.0 where the model's answer wins, 0.0 where it loses, 0.5 for a tie.

    The judge is a reward (the option ``judge``: a registered one or ``model:PATH``), whose higher
    score wins; else a model behind an OpenAI-compatible endpoint, asked in both orders, whose
    verdicts are averaged. Equal answers are a tie unasked. Abstains where the judge does.

    Beside it ``ties``, the share of pairs that neither wins, and of an asked judge
    ``position_bias``: 1.0 where it always prefers what stands first, -1.0 what stands second, 0.0
    where the order does not matter.

    Source: LLM-as-a-judge, arXiv:2306.05685, pairwise comparison with swapped positions.

    Args:
        prompts: What is answered.
        completions: This model's answers.
        answers: Of all models so far; the first is who ``against`` ``first`` means.
        reference: Answers of the dataset.
        generation_prefix: What the prompt has opened.
        score: Of the reward that judges.
        against: ``first``, the first of the models, which ties with itself; or ``reference``, the
            answers that the dataset shows.
        instructions: What an asked judge judges by.
        endpoint: Of a judge that is asked: ``model``, ``base_url`` and the others of
            :class:`trl_deepseek.judging.Endpoint`.

    Raises:
        DataError: There are no reference answers.
    """
    if against == "first":
        others = list(next(iter(answers.values())))
    elif reference is None:
        raise DataError("win_rate: the rows show no answers; against='first' compares models")
    else:
        # They begin after the reasoning that a template may open.
        closed = opens_thinking(generation_prefix)
        others = [CLOSE + said if closed and CLOSE not in said else said for said in reference]
    own = [text(completion, generation_prefix) for completion in completions]
    if score is not None:
        scores = zip(score(own), score(others), strict=True)
        return [None if a is None or b is None else _won(a, b) for a, b in scores]
    preferences = await prefer(
        "win_rate",
        prompts,
        [answer(said, generation_prefix) for said in own],
        [answer(said, generation_prefix) for said in others],
        None if reference is None or against == "reference" else reference,
        Endpoint.of("win_rate", endpoint),
        instructions,
    )
    return [
        None if p is None else {**_value(p.value), "position_bias": p.bias} for p in preferences
    ]


def _won(a: float, b: float) -> dict[str, float]:
    return _value(0.5 if a == b else float(a > b))


def _value(value: float) -> dict[str, float]:
    return {"": value, "ties": float(value == 0.5)}
