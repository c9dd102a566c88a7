"""Several models, several metrics, one pass of answers each."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trl_deepseek import chat, generation
from trl_deepseek.evaluation import questions as asking
from trl_deepseek.evaluation import scoring
from trl_deepseek.evaluation.choosing import Chosen, check, resolve
from trl_deepseek.evaluation.preparing import Rows, prepare
from trl_deepseek.evaluation.results import Evaluation, Measured
from trl_deepseek.evaluation.scoring import Answered
from trl_deepseek.generation import Sampling
from trl_deepseek.plugin_loading import load_registry
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.rewards.placing import Guards
from trl_deepseek.types import Messages

if TYPE_CHECKING:
    from trl_deepseek.registry import Registry

logger = logging.getLogger(__name__)

Model = tuple[Any, Any] | Callable[[], tuple[Any, Any]]


def evaluate(
    models: Mapping[str, Model],
    dataset: Any,
    metrics: Sequence[str | Chosen | Callable[..., Any]],
    sampling: Sampling | None = None,
    *,
    registry: Registry | None = None,
    settings: Settings | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Measure models on the same rows.

    Each model answers once for all metrics over answers. A live model is left as it was found.

    Args:
        models: By name: a model and its tokenizer, or a function that loads them, which is called
            when it is that model's turn, so that one at a time is in memory.
        dataset: Rows for all metrics, or a mapping from the kind of rows that metrics need
            (``prompts``, ``demonstrations``, ``preferences``) to rows of that kind; or what
            :func:`prepare` made of them.
        metrics: Names, functions with a reward's signature, or what :func:`resolve` gave.
        sampling: How answers are drawn; by default one greedy answer of 512 tokens.
        registry: Where names are looked up; the installed plugins by default.
        settings: What a failure of a reward means and where rewards run; by default it ends the
            evaluation.
        chat_template_kwargs: What the template takes, such as ``thinking``, for all prompts.
        seed: Of the intervals.
        progress: Whether to show bars on a terminal.

    Raises:
        UserError: A metric does not exist, or a dataset does not fit it.
        RunError: A metric or a reward failed.
    """
    registry = registry if registry is not None else load_registry()
    sampling = sampling or Sampling()
    chosen = [each for each in metrics if isinstance(each, Chosen)]
    if len(chosen) < len(metrics):
        chosen = resolve(metrics, registry, num_samples=sampling.num_samples)
    for each in chosen:
        check(each, num_samples=sampling.num_samples, models=len(models))
    rows = dataset if isinstance(dataset, Rows) else prepare(dataset, chosen)
    answers: dict[str, dict[str, list[list[str]]]] = {}
    measured: dict[str, list[Measured]] = {}
    samples: list[dict[str, Any]] = []
    for name, given in models.items():
        model, tokenizer = given() if callable(given) else given
        label = name if progress else None
        once = _Answers(model, tokenizer, sampling, chat_template_kwargs, name, answers, label)
        prefix = chat.generation_prefix(tokenizer, **(chat_template_kwargs or {}))
        guarded = [each.reward for each in chosen if each.reward is not None]
        guards = Guards(guarded, registry, settings or Settings(), prefix)
        by_reward = dict(zip(map(id, guarded), guards.functions, strict=True))
        try:
            measured[name] = []
            for each in chosen:
                if each.over == "model":
                    found = scoring.measure_model(
                        each,
                        model,
                        tokenizer,
                        rows.by_metric.get(each.name),
                        registry=registry,
                        sampling=sampling,
                        progress=label,
                        complete=functools.partial(once.to_prompts, prefix=prefix),
                    )
                else:
                    asked = asking.questions(rows.by_metric[each.name])
                    answered = once.to(asked, prefix)
                    guard = by_reward.get(id(each.reward))
                    found = scoring.measure_answers(each, answered, guard)
                _say_counts(name, found)
                measured[name].append(found)
        finally:
            guards.close()
        samples += once.samples()
        del model, tokenizer, once, given  # before the next one is loaded
    return Evaluation(measured, samples, seed)


class _Answers:
    """One model's answers, made once for the same questions."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        sampling: Sampling,
        chat_template_kwargs: Mapping[str, Any] | None,
        name: str,
        answers: dict[str, dict[str, list[list[str]]]],
        progress: str | None,
    ) -> None:
        self._ask = (model, tokenizer)
        self._sampling = sampling
        self._template_kwargs = chat_template_kwargs
        self._name = name
        self._answers = answers
        self._progress = progress
        self._answered: dict[str, Answered] = {}

    def to_prompts(self, prompts: Sequence[str | Messages], prefix: str) -> Answered:
        """The answers to prompts that a metric over the model has made."""
        own = [prompt if isinstance(prompt, str) else list(prompt) for prompt in prompts]
        return self.to(asking.Questions(own, {}, [{} for _ in own]), prefix)

    def to(self, asked: asking.Questions, prefix: str) -> Answered:
        """The answers to questions."""
        key = json.dumps([asked.prompts, asked.rendered_with], default=repr)
        known = self._answered.get(key)
        if known is None:
            completions = generation.complete(
                *self._ask,
                asked.prompts,
                self._sampling,
                chat_template_kwargs=self._template_kwargs,
                rows=asked.rendered_with,
                progress=self._progress,
            )
            by_model = self._answers.setdefault(key, {})
            by_model[self._name] = [[answer.text for answer in own] for own in completions]
            known = self._answered[key] = Answered(asked, completions, prefix, by_model)
        known.questions.columns.update(asked.columns)
        return known

    def samples(self) -> list[dict[str, Any]]:
        """One row per answer."""
        return [
            {
                "model": self._name,
                "row": row,
                "sample": sample,
                "prompt": _text(answered.questions.prompts[row]),
                "completion": answer.text,
                "tokens": len(answer.token_ids),
                "finished": answer.finished,
                **{f"metrics/{m}": each[row][sample] for m, each in answered.values.items()},
            }
            for answered in self._answered.values()
            for row, own in enumerate(answered.completions)
            for sample, answer in enumerate(own)
        ]


def _say_counts(model: str, found: Measured) -> None:
    """Warn of what is not in the numbers."""
    said = [f"{count} {what}" for what, count in found.counts.items() if count]
    if found.abstained:
        said.append(f"{found.abstained} of {len(found.units)} prompts have no value")
    if said:
        logger.warning("%s, %s: %s", model, found.name, "; ".join(said))


def _text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)
