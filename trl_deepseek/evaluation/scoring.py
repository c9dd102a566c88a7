"""Hand answers to metrics, and rows to those over a model; what comes back is checked."""

from __future__ import annotations

import asyncio
import functools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import RunError, boundary
from trl_deepseek.evaluation.choosing import Chosen
from trl_deepseek.evaluation.intervals import Unit
from trl_deepseek.evaluation.questions import Questions
from trl_deepseek.evaluation.results import Measured
from trl_deepseek.rewards import as_batch
from trl_deepseek.rewards.contract import COUNTED, GuardedReward
from trl_deepseek.types import Estimate

if TYPE_CHECKING:
    from trl_deepseek.generation import Completion

CALL = 256  # answers that a reward is given at a time, as a training step would; prompts stay whole

Value = float | None | Mapping[str, float]


@dataclass
class Answered:
    """One model's answers to N questions, S each.

    Attributes:
        questions: What was asked.
        completions: (N, S).
        generation_prefix: What the template wrote before each answer.
        answers: The answers of each model so far, this one among them, by its name, (N, S) texts.
        values: Of each answer, (N, S), by the label of the metric that gave them.
    """

    questions: Questions
    completions: list[list[Completion]]
    generation_prefix: str
    answers: dict[str, list[list[str]]]
    values: dict[str, Sequence[Sequence[float | None]]] = field(default_factory=dict)

    def batch(self, first: int = 0, last: int | None = None) -> dict[str, Any]:
        """What a reward is called with for some of the questions, flat: (N * S,)."""
        part = slice(first, last)
        count = len(self.completions[0]) if self.completions else 0
        prompts = self.questions.prompts[part]
        flat = [(p, c) for p, own in zip(prompts, self.completions[part], strict=True) for c in own]
        columns = {
            name: [value for value in column[part] for _ in range(count)]
            for name, column in self.questions.columns.items()
        }
        return {
            **columns,
            "prompts": [prompt for prompt, _ in flat],
            "completions": [
                answer.text
                if isinstance(prompt, str)
                else [{"role": "assistant", "content": answer.text}]
                for prompt, answer in flat
            ],
            "completion_ids": [list(answer.token_ids) for _, answer in flat],
        }


def measure_answers(
    chosen: Chosen,
    answered: Answered,
    guard: GuardedReward | None,
    judged: Sequence[Sequence[float | None]] | None = None,
) -> Measured:
    """One metric over answers.

    Args:
        chosen: A metric over completions or groups.
        answered: By one model.
        guard: Of the reward that it is, or that judges for it; None where there is none.
        judged: What the judge would give each answer, (N, S), to try a metric without one.

    Raises:
        RunError: The metric failed, or gave what is no value.
        RewardError: The reward failed, and the failure policy is to raise.
    """
    count = len(answered.completions[0])
    scores: Sequence[Sequence[float | None]] | None = judged
    counts: dict[str, int] = {}
    metric = chosen.metric
    if guard is not None and (metric is None or metric.over == "groups"):
        scores, counts = _scores(guard, answered)
    if metric is None:
        assert scores is not None  # it is a reward
        answered.values[chosen.name] = scores
        units = [_mean([_as_unit(score, chosen.name) for score in own]) for own in scores]
        return Measured(chosen.name, units, counts=counts)
    function = functools.partial(metric.function, **chosen.options)
    with boundary(RunError, f"metric {chosen.name!r} failed"):
        if metric.over == "groups":
            values = _groups(function, answered, scores)
            units = [_as_unit(value, chosen.name) for value in values]
            _expect(chosen.name, units, len(answered.completions))
        else:
            given = _completions(function, answered, guard)
            flat = [_as_unit(value, chosen.name) for value in given]
            _expect(chosen.name, flat, len(answered.completions) * count)
            groups = [flat[i : i + count] for i in range(0, len(flat), count)]
            _keep(chosen.name, groups, answered)
            units = [_sum(own) if metric.aggregate else _mean(own) for own in groups]
    return Measured(
        chosen.name,
        units,
        metric.aggregate,
        counts=counts,
        higher_is_better=metric.higher_is_better,
    )


def measure_model(chosen: Chosen, model: Any, tokenizer: Any, dataset: Any, **offered: Any) -> Any:
    """One metric over a model.

    Args:
        chosen: A metric over a model.
        model: Left in the mode it was found in.
        tokenizer: With its template installed.
        dataset: The rows; None where the metric brings its own.
        **offered: What else a function may take.

    Raises:
        RunError: The metric failed, or gave what is no value.
    """
    metric = chosen.metric
    assert metric is not None
    given = {"model": model, "tokenizer": tokenizer, "dataset": dataset, **offered}
    with boundary(RunError, f"metric {chosen.name!r} failed"):
        said = _call(functools.partial(metric.function, **chosen.options), given)
        found = _run(lambda: said) if asyncio.iscoroutine(said) else said
    kept = Measured(chosen.name, higher_is_better=metric.higher_is_better)
    if isinstance(found, Mapping):
        wrong = [e for e in found.values() if not isinstance(e, Estimate)]
        if wrong:
            raise RunError(f"metric {chosen.name!r} gave {wrong[0]!r} for a model, not an Estimate")
        return replace(kept, fixed=dict(found))
    units = [_as_unit(value, chosen.name) for value in found]
    if dataset is not None:
        _expect(chosen.name, units, len(dataset))
    return replace(kept, units=units, aggregate=metric.aggregate)


def _scores(
    guard: GuardedReward, answered: Answered
) -> tuple[list[list[float | None]], dict[str, int]]:
    """The reward's score of each answer, (N, S), and how often it failed or abstained."""
    samples = len(answered.completions[0])
    step = max(1, CALL // samples)
    counts = dict.fromkeys(COUNTED, 0)

    def count(name: str, value: float) -> None:
        what = name.rpartition("/")[2]
        if name == f"rewards/{guard.__name__}/{what}" and what in counts:
            counts[what] += int(value)

    async def score() -> list[float | None]:
        found: list[float | None] = []
        for first in range(0, len(answered.completions), step):
            found += await guard(**answered.batch(first, first + step), log_metric=count)
        return found

    flat = _run(score)
    return [flat[i : i + samples] for i in range(0, len(flat), samples)], counts


def _score_texts(
    guard: GuardedReward, answered: Answered, texts: Sequence[str]
) -> list[float | None]:
    """The reward's score of other answers to the same questions, (N * S,)."""
    from trl_deepseek.generation import Completion

    count = len(answered.completions[0])
    others = [Completion(text, (), True) for text in texts]
    groups = [others[i : i + count] for i in range(0, len(others), count)]
    scores, _ = _scores(guard, replace(answered, completions=groups))
    return [score for own in scores for score in own]


def _run(work: Callable[[], Any]) -> Any:
    """The result of a coroutine, also where an event loop runs already, as in a notebook."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(asyncio.run(work()))
        except BaseException as error:  # raised again below, in the caller's thread
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def _completions(
    function: Callable[..., Any], answered: Answered, guard: GuardedReward | None
) -> Sequence[Any]:
    batch = {**answered.batch(), "generation_prefix": answered.generation_prefix}
    batch["answers"] = {
        name: [text for own in texts for text in own] for name, texts in answered.answers.items()
    }
    batch["score"] = None if guard is None else functools.partial(_score_texts, guard, answered)
    call = as_batch(function)
    found = call(**batch)
    return _run(lambda: found) if asyncio.iscoroutine(found) else found


def _groups(
    function: Callable[..., Any], answered: Answered, scores: Sequence[Any] | None
) -> list[Any]:
    found = []
    columns = answered.questions.columns
    for place, own in enumerate(answered.completions):
        given = {
            **{name: column[place] for name, column in columns.items()},
            "prompt": answered.questions.prompts[place],
            "completions": [answer.text for answer in own],
            "completion_ids": [list(answer.token_ids) for answer in own],
            "generation_prefix": answered.generation_prefix,
            "scores": None if scores is None else scores[place],
            "answers": {name: texts[place] for name, texts in answered.answers.items()},
        }
        found.append(_call(function, given))
    return found


def _call(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """Call with what the function takes by name."""
    import inspect

    bound = getattr(function, "keywords", {})
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return function(**{k: v for k, v in given.items() if k not in bound})
    taken = {p.name for p in parameters} - set(bound)
    return function(**{name: value for name, value in given.items() if name in taken})


def _keep(name: str, groups: list[list[Unit]], answered: Answered) -> None:
    """Note each answer's own values, for the table of samples."""
    parts = dict.fromkeys(part for own in groups for unit in own if unit for part in unit)
    for part in parts:
        label = f"{name}/{part}" if part else name
        answered.values[label] = [
            [None if unit is None else unit.get(part) for unit in own] for own in groups
        ]


def _as_unit(value: Value, name: str) -> Unit:
    """A value by part, or None.

    Raises:
        RunError: It is neither a number nor a mapping of numbers, or not a number at all.
    """
    if value is None:
        return None
    parts = dict(value) if isinstance(value, Mapping) else {"": value}
    for part, number in parts.items():
        try:
            parts[part] = float(number)
        except (TypeError, ValueError) as error:
            raise RunError(f"metric {name!r} gave {number!r}, which is no number") from error
        if math.isnan(parts[part]):
            raise RunError(f"metric {name!r} gave NaN; a metric that has no value returns None")
    return parts


def _expect(name: str, values: Sequence[Any], count: int) -> None:
    if len(values) != count:
        raise RunError(f"metric {name!r} gave {len(values)} values for {count}")


def _mean(units: Sequence[Unit]) -> Unit:
    """The mean of each part over the answers that have it; None where none has."""
    counted = [unit for unit in units if unit]
    parts = dict.fromkeys(part for unit in counted for part in unit)
    found = {part: [unit[part] for unit in counted if part in unit] for part in parts}
    return {part: sum(values) / len(values) for part, values in found.items()} or None


def _sum(units: Sequence[Unit]) -> Unit:
    counted = [unit for unit in units if unit]
    parts = dict.fromkeys(part for unit in counted for part in unit)
    return {part: sum(unit[part] for unit in counted) for part in parts} or None
