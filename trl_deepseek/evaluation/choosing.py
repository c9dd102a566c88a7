"""From what a user wrote as metrics to functions with their options, before a model is loaded."""

from __future__ import annotations

import functools
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from trl_deepseek import rewards
from trl_deepseek.errors import ConfigError, DataError, UnknownName, did_you_mean
from trl_deepseek.registry import Registry
from trl_deepseek.rewards.resolving import MODEL_PREFIX
from trl_deepseek.rewards.signature import PROVIDED
from trl_deepseek.types import DatasetKind, Metric, Reward

# What a metric's function is handed by these names; its other parameters are columns and options.
OFFERED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "completions": PROVIDED | {"answers", "score"},
        "groups": frozenset(
            {
                *("prompt", "completions", "completion_ids", "generation_prefix"),
                *("scores", "answers"),
            }
        ),
        "model": frozenset(
            {
                *("model", "tokenizer", "dataset", "registry", "sampling", "progress"),
                "complete",
            }
        ),
    }
)
JUDGE = "judge"  # the option of a metric that has one
TASK = "task"  # the parameter that is what stands behind the colon of METRIC:TASK


@dataclass(frozen=True)
class Chosen:
    """One metric of an evaluation, with its options.

    Attributes:
        name: As the user wrote it.
        metric: The registered metric; None where it is a reward.
        options: Of the metric's function, as given.
        reward: The reward that it is, or that judges for it; None where there is none.
    """

    name: str
    metric: Metric | None
    options: Mapping[str, Any] = field(default_factory=dict)
    reward: Any = None

    @property
    def over(self) -> str:
        """``completions``, ``groups`` or ``model``."""
        return "completions" if self.metric is None else self.metric.over

    @property
    def rows(self) -> DatasetKind | None:
        """The kind of rows that it is measured on; None where it brings its own."""
        if self.metric is None:
            return "prompts"
        rows = self.metric.rows
        return rows({**options_of(self.metric), **self.options}) if callable(rows) else rows

    @property
    def columns(self) -> list[str]:
        """The columns that rows must have beside what their kind stands for."""
        found = {} if self.reward is None else dict.fromkeys(rewards.columns_of([self.reward]))
        if self.metric is not None:
            found |= dict.fromkeys((*self.metric.columns, *_required(self.metric)))
        return [name for name in found if name not in self.options]

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger number is a better model."""
        return self.metric is None or self.metric.higher_is_better


def resolve(
    names: Sequence[Any],
    registry: Registry,
    metric_kwargs: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    num_samples: int = 1,
    models: int | None = None,
) -> list[Chosen]:
    """The metrics of an evaluation.

    Args:
        names: Each a registered metric, or whatever ``reward_funcs`` takes: a registered reward,
            ``file.py:function``, ``module.function``, ``model:PATH``, a function.
        registry: Where names are looked up.
        metric_kwargs: Options by the metric's name.
        num_samples: Answers per prompt.
        models: How many are measured side by side; None where that is not known yet.

    Raises:
        UnknownName: Nobody registers a metric or a reward of that name.
        ConfigError: A metric is named twice, an option is unknown or does not fit, or a module is
            not installed.
    """
    given = dict(metric_kwargs or {})
    for name, options in given.items():
        if not isinstance(options, Mapping):
            raise ConfigError(
                f"metric_kwargs: {name!r} is mapped to {options!r}; write the metric's name "
                f'and its options: \'{{"METRIC": {{"{name}": ...}}}}\''
            )
    chosen = [_resolve_one(name, registry, given) for name in names]
    seen: set[str] = set()
    for each in chosen:
        if each.name in seen:
            raise ConfigError(f"metric {each.name!r} is named twice: list it once")
        seen.add(each.name)
        check(each, num_samples=num_samples, models=models)
    unknown = [name for name in given if name not in seen]
    if unknown:
        hint = did_you_mean(unknown[0], seen, inline=True)
        raise ConfigError(
            f"metric_kwargs: {unknown[0]!r} is not among the metrics{hint}\n"
            f"  they are: {', '.join(seen) or '(none)'}"
        )
    return chosen


def check(chosen: Chosen, *, num_samples: int, models: int | None) -> None:
    """Refuse a metric whose options do not fit; see :func:`resolve`."""
    metric = chosen.metric
    if metric is None:
        return
    for module in metric.requires:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"metric {chosen.name!r} needs the module {module!r}, which is not installed\n"
                f"  install it with: pip install {module}"
            )
    if metric.over == "completions":
        rewards.signature_of(metric.function)  # refuses what cannot be called as one
        reward = chosen.reward
        if reward is not None and "completion_ids" in rewards.signature_of(reward).required:
            raise ConfigError(
                f"metric {chosen.name!r}: the reward {rewards.name_of(reward)!r} counts tokens, "
                "and can be no judge between answers that are text alone"
            )
    if metric.check is not None:
        judge = None if chosen.reward is None else rewards.name_of(chosen.reward)
        given = {**options_of(metric), **chosen.options, JUDGE: judge}
        asked = {"num_samples": num_samples, "models": models}
        taken = {parameter.name for parameter in _parameters(metric.check)}
        fault = metric.check(given, **{name: asked[name] for name in taken & asked.keys()})
        if fault is not None:
            raise ConfigError(f"metric {chosen.name!r}: {fault}")


def check_rows(chosen: Iterable[Chosen], dataset: Any, source: str) -> None:
    """Refuse a dataset that lacks a column of a metric, or holds a row that one cannot be fed.

    Args:
        chosen: The metrics that are measured on it.
        dataset: A table.
        source: Its name, for messages.

    Raises:
        DataError: Names metric, column or row.
    """
    for each in chosen:
        for column in each.columns:
            if column not in dataset.column_names:
                raise DataError(
                    f"metric {each.name!r} needs the column {column!r}, which {source} does not "
                    f"have{did_you_mean(column, dataset.column_names)}\n"
                    f"  columns found: {', '.join(dataset.column_names)}\n"
                    f"  another column can stand for it: --columns OTHER={column}"
                )
        if each.reward is not None:
            rewards.check_rows([each.reward], dataset)
        ask = None if each.metric is None else each.metric.check_row
        wrong = [(i, said) for i, row in enumerate(dataset) if (said := ask(row))] if ask else []
        if wrong:
            raise DataError(
                f"metric {each.name!r} cannot be measured on row {wrong[0][0]} of {source}: "
                f"{wrong[0][1]}\n  {len(wrong)} such rows; mend them or leave them out"
            )


def options_of(metric: Metric) -> dict[str, Any]:
    """Name and default of each option that ``metric_kwargs`` may set."""
    found: dict[str, Any] = {JUDGE: metric.judge} if _has_judge(metric) else {}
    for parameter in _parameters(metric.function):
        if parameter.default is not parameter.empty and parameter.name not in OFFERED[metric.over]:
            found[parameter.name] = parameter.default
    return found


def _has_judge(metric: Metric) -> bool:
    """Whether the option ``judge`` may name a reward."""
    taken = {parameter.name for parameter in _parameters(metric.function)}
    return metric.judge is not None or (metric.over == "completions" and "score" in taken)


def _resolve_one(name: Any, registry: Registry, given: Mapping[str, Mapping[str, Any]]) -> Chosen:
    options = dict(given.get(name, {})) if isinstance(name, str) else {}
    metric = _metric(name, registry)
    if metric is None:
        return _reward(name, registry, options)
    if name != metric.name:
        options.setdefault(TASK, name.removeprefix(f"{metric.name}:"))
    allowed = options_of(metric) | dict.fromkeys(_required(metric) if TASK in options else ())
    _check_options(name, options, allowed)
    judge = options.pop(JUDGE, metric.judge)
    (reward,) = [None] if judge is None else rewards.resolve([judge], registry)
    return Chosen(name, metric, options, reward)


def _metric(name: Any, registry: Registry) -> Metric | None:
    """The registered metric that a name means, alone or with a task behind a colon."""
    if not isinstance(name, str):
        return None
    if name in registry.metrics:
        return registry.metrics[name]
    prefix = name.partition(":")[0]
    if prefix in registry.metrics:
        found = registry.metrics[prefix]
        if TASK in {parameter.name for parameter in _parameters(found.function)}:
            return found
        raise ConfigError(f"metric {prefix!r} has no tasks: write it without {name[len(prefix) :]}")
    plain = not any(sign in name for sign in ":/.")
    if plain and name not in registry.rewards:
        known = [*registry.metrics, *registry.rewards]
        raise UnknownName(
            "metrics",
            name,
            f"no plugin registers a metric or a reward named {name!r}{did_you_mean(name, known)}\n"
            f"  metrics: {', '.join(registry.metrics) or '(none)'}\n"
            f"  rewards, which are metrics too: {', '.join(registry.rewards) or '(none)'}",
        )
    return None


def _reward(name: Any, registry: Registry, options: Mapping[str, Any]) -> Chosen:
    (reward,) = rewards.resolve([name], registry)
    if not rewards.is_function(reward):
        raise ConfigError(f"metric {name!r}: a reward model is written {MODEL_PREFIX}{name}")
    label = name if isinstance(name, str) else rewards.name_of(reward)
    if options:
        inner = reward.function if isinstance(reward, Reward) else reward
        allowed = {
            p.name: p.default
            for p in _parameters(inner)
            if p.default is not p.empty and p.name not in PROVIDED
        }
        _check_options(label, options, allowed)
        bound = functools.partial(inner, **options)
        is_registered = isinstance(reward, Reward)
        reward = replace(reward, function=bound) if is_registered else Reward(label, bound)
    return Chosen(label, None, options, reward)


def _check_options(name: str, options: Mapping[str, Any], allowed: Mapping[str, Any]) -> None:
    for option in options:
        if option not in allowed:
            raise ConfigError(
                f"metric_kwargs: {name!r} has no option {option!r}"
                f"{did_you_mean(option, allowed, inline=True)}\n"
                f"  its options: {', '.join(allowed) or '(none)'}"
            )


def _required(metric: Metric) -> list[str]:
    """The parameters without default that are not handed in: columns, or what a task names."""
    return [
        p.name
        for p in _parameters(metric.function)
        if p.default is p.empty and p.name not in OFFERED[metric.over]
    ]


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some compiled functions do not tell
        return []
    return [p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
