"""Models side by side on held-out rows: everything checked before a model is loaded."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl_deepseek import chat, data, evaluation, generation, rewards
from trl_deepseek.errors import ConfigError, ModelError, TemplateError
from trl_deepseek.evaluation import Chosen, Evaluation, Rows
from trl_deepseek.generation import Sampling
from trl_deepseek.jobs import idle_rules
from trl_deepseek.jobs.evaluate_options import NO_METRICS, EvaluateOptions
from trl_deepseek.registry import Registry
from trl_deepseek.rewards import model_reward
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.rewards.verifiers import brought_by, verifier_of
from trl_deepseek.trainers import idle
from trl_deepseek.types import DatasetKind

logger = logging.getLogger(__name__)

HELD_OUT = "test"


@dataclass
class Job:
    """A checked evaluation.

    Attributes:
        options: As given.
        registry: The registry of the run.
        metrics: With their options.
        rows: Of each metric.
        sampling: How answers are drawn.
        settings: What a failure of a reward means.
        models: What loads each model, by its name; equal names are numbered.
    """

    options: EvaluateOptions
    registry: Registry
    metrics: list[Chosen]
    rows: Rows
    sampling: Sampling
    settings: Settings
    models: Mapping[str, Callable[[], tuple[Any, Any]]]


def check(options: EvaluateOptions, registry: Registry) -> Job:
    """The checked job.

    Raises:
        UserError: Something does not exist or does not fit.
    """
    sampling = options.sampling
    settings = options.reward_settings
    if options.output_dir is not None and Path(options.output_dir).is_file():
        raise ConfigError(f"output_dir {options.output_dir!r} is a file; name a folder")
    metric_kwargs: Any = options.metric_kwargs
    chosen = evaluation.resolve(
        options.metrics or _brought(options, registry),
        registry,
        metric_kwargs,
        num_samples=options.num_samples,
        models=len(options.models or ()),
    )
    functions = [each.reward for each in chosen if each.reward is not None]
    rewards.check_sandbox(functions, options.allow_unsandboxed_code)
    idle.tell(options, idle_rules.DRAWING, sampling)
    idle.tell(options, idle_rules.SCORING, functions)
    names = dict.fromkeys(options.models or ())
    tokenizers = {name: _tokenizer(name, options, registry, chosen) for name in names}
    loaded = _rows(options, registry, chosen)
    rows = evaluation.prepare(loaded, chosen)
    _check_conversations(options, rows, tokenizers)
    return Job(options, registry, chosen, rows, sampling, settings, _models(options, registry))


def _brought(options: EvaluateOptions, registry: Registry) -> list[Any]:
    """The verifiers of the rows or of their task, where no metric is named."""
    if options.task is not None:
        return [verifier_of(options.task, registry)]
    found = brought_by(_load(str(options.dataset_name), options, registry, "prompts"), registry)
    if not found:
        raise ConfigError(NO_METRICS)
    return found


def run(job: Job, *, show_progress: bool = False) -> Evaluation:
    """Measure, and save what was found where the options say so.

    Raises:
        RunError: A metric or a reward failed.
    """
    template_kwargs: Any = job.options.chat_template_kwargs
    found = evaluation.evaluate(
        job.models,
        job.rows,
        job.metrics,
        job.sampling,
        registry=job.registry,
        settings=job.settings,
        chat_template_kwargs=template_kwargs,
        seed=job.options.seed,
        progress=show_progress,
    )
    if job.options.output_dir is not None:
        found.save(job.options.output_dir)
    return found


def _tokenizer(
    name: str, options: EvaluateOptions, registry: Registry, chosen: Sequence[Chosen]
) -> Any:
    """The tokenizer of a model that has been found whole, and fit for every metric."""
    if model_reward.is_reward_model(name):
        model_reward.check_reward_model(name)
        unfit = [each.name for each in chosen if each.metric is None or not each.metric.scores]
        if unfit:
            raise ModelError(
                f"model {name!r} is a reward model, which answers nothing: {unfit[0]!r} cannot "
                "measure it\n  preference_accuracy can"
            )
        return model_reward.tokenizer_of(name, registry)
    options.check_engine()
    return generation.check(
        name, registry, quantization=options.quantization, chat_template=options.chat_template
    )


def _models(
    options: EvaluateOptions, registry: Registry
) -> dict[str, Callable[[], tuple[Any, Any]]]:
    found: dict[str, Callable[[], tuple[Any, Any]]] = {}
    for name in options.models or ():
        count = sum(each == name for each in (options.models or ())[: len(found)])
        label = name if not count else f"{name} ({count + 1})"
        if model_reward.is_reward_model(name):
            found[label] = functools.partial(_reward_model, name, registry)
            continue
        found[label] = functools.partial(
            generation.load,
            name,
            registry,
            seed=options.seed,
            quantization=options.quantization,
            chat_template=options.chat_template,
            dtype=options.dtype,
            engine=options.engine,
        )
    return found


def _reward_model(name: str, registry: Registry) -> tuple[Any, Any]:
    loaded = model_reward.load_reward_model(name, registry)
    return loaded.model, loaded.tokenizer


def _rows(
    options: EvaluateOptions, registry: Registry, chosen: Sequence[Chosen]
) -> dict[DatasetKind, Any]:
    """The rows of each kind that is needed."""
    found: dict[DatasetKind, Any] = {}
    name = options.dataset_name
    for each in chosen:
        if each.rows is None:
            continue
        if name is None:
            raise ConfigError(f"--dataset_name is required: {each.name!r} is measured on rows")
        if each.rows not in found:
            found[each.rows] = _load(name, options, registry, each.rows)
    if name is not None and not found:
        raise ConfigError(
            "dataset_name names rows that nothing would look at: the metrics bring their own\n"
            "  leave it out"
        )
    return found


def _load(name: str, options: EvaluateOptions, registry: Registry, kind: DatasetKind) -> Any:
    load = functools.partial(data.load, name, registry, kind=kind, subset=options.dataset_config)
    load = functools.partial(load, options=options.dataset_kwargs)
    split = options.dataset_split
    if name in registry.datasets:
        rows = load(split=split or HELD_OUT, size=options.max_samples)
    else:
        rows = load(split=split or _only_split(name, options) or HELD_OUT)
    if options.max_samples is not None and len(rows) > options.max_samples:
        logger.info("%s: the first %d of %d rows", name, options.max_samples, len(rows))
        rows = rows.take(options.max_samples)
        rows.info.dataset_name = name
    rows = data.rename_columns(rows, data.column_mapping(options.columns or []), name)
    return data.as_messages(rows) if options.as_messages else rows


def _only_split(name: str, options: EvaluateOptions) -> str | None:
    """The split of a dataset that has one only, which is then said; None where there are more."""
    folder = Path(name).expanduser()
    if folder.is_file():
        logger.info("%s is taken whole: a file has one split", name)
        return "train"
    if not folder.is_dir():
        return None
    from datasets import get_dataset_split_names

    try:
        names = get_dataset_split_names(str(folder), options.dataset_config)
    except Exception:  # each builder has its own errors; loading says what is wrong
        return None
    if len(names) != 1 or names == [HELD_OUT]:
        return None
    logger.warning("%s has one split only, %r: it is taken whole", name, names[0])
    return str(names[0])


def _check_conversations(
    options: EvaluateOptions, rows: Rows, tokenizers: Mapping[str, Any]
) -> None:
    """Refuse conversations where a model has no template to render them with."""
    if not options.as_messages:
        for each in rows.by_metric.values():
            for tokenizer in tokenizers.values():
                chat.say_if_prompts_are_text(each, tokenizer, str(options.dataset_name))
    if not any(chat.holds_conversations(each) for each in rows.by_metric.values()):
        return
    for name, tokenizer in tokenizers.items():
        if not tokenizer.chat_template:
            raise TemplateError(
                f"{options.dataset_name} holds conversations, and model {name!r} has no chat "
                "template\n  name one: --chat_template"
            )
