"""From a dataset to the training that it is good for, with the command to paste."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from trl_deepseek import chat, data, models
from trl_deepseek.errors import ConfigError
from trl_deepseek.plugin_loading import load_registry
from trl_deepseek.recommending import guide
from trl_deepseek.recommending.figures import Figures, figures_of
from trl_deepseek.recommending.guide import Advice
from trl_deepseek.recommending.kinds import Kind, kind_of
from trl_deepseek.registry import Registry
from trl_deepseek.trainers import ranges

EMBEDDED = "tiny-deepseek-llm"  # the command's model where none is named: it runs anywhere
ROUND = 64  # tokens: lengths are rounded up to a multiple


@dataclass
class Options:
    """What to look at.

    Attributes:
        dataset_name: Embedded dataset, file, folder or hub id.
        dataset_config: Configuration of a hub dataset.
        dataset_train_split: Split to look at.
        model_name_or_path: The model to train, whose tokenizer counts tokens; None for the
            embedded tiny one, and no tokens.
        output_dir: In the command.
        dataset_kwargs: Options of an embedded dataset.
        plugins: Beside the installed ones.
        block: To leave out.
    """

    dataset_name: str | None
    dataset_config: str | None = None
    dataset_train_split: str = "train"
    model_name_or_path: str | None = None
    output_dir: str = "out"
    dataset_kwargs: dict[str, Any] | str | None = None
    plugins: list[str] = field(default_factory=list)
    block: list[str] = field(default_factory=list)


@dataclass
class Job:
    """What was found, before it is counted.

    Attributes:
        options: As given.
        registry: The one registry.
        dataset: The rows.
        kind: What they are.
        tokenizer: Of the model that is named; None without one.
    """

    options: Options
    registry: Registry
    dataset: Any
    kind: Kind
    tokenizer: Any


def check(options: Options) -> Job:
    """Load the rows and the tokenizer, and say what the rows are.

    Raises:
        ConfigError: No dataset is named.
        DataError: The data cannot be read, or is for no training that is known.
        ModelError: There is no such model.
        PluginError: A plugin does not load.
    """
    if options.dataset_name is None:
        raise ConfigError("--dataset_name is required")
    ranges.read_mappings(options, ("dataset_kwargs",), ())
    registry = load_registry(options.plugins, options.block)
    dataset_options: Any = options.dataset_kwargs
    rows = data.load(
        options.dataset_name,
        registry,
        kind="prompts",
        split=options.dataset_train_split,
        subset=options.dataset_config,
        options=dataset_options,
    )
    kind = kind_of(rows, registry, options.dataset_name)
    name, tokenizer = options.model_name_or_path, None
    if name is not None:
        models.check(name, registry, needs_weights=False)
        tokenizer = (
            registry.models[name]()[1]
            if name in registry.models
            else models.load_tokenizer(name, options)
        )
    return Job(options, registry, rows, kind, tokenizer)


def run(job: Job, progress: Callable[[Iterable[Any]], Iterable[Any]] = iter) -> dict[str, Any]:
    """The recommendation: ``method``, ``loss``, ``rewards``, ``preset``, ``command``, ``reasons``.

    ``kind`` and ``data`` are what it was made from.

    Raises:
        DataError: A row is malformed.
        UnknownName: A plugin is blocked that it would name something of.
    """
    name = str(job.options.dataset_name)
    figures = figures_of(job.dataset, job.kind, name, job.tokenizer, progress)
    advice = guide.advise(job.kind, figures)
    preset = job.registry.presets[advice.preset]
    for reward in advice.rewards:
        _ = job.registry.rewards[reward]
    _fit_lengths(advice, figures, preset.values)
    as_messages = _are_to_be_turns(job)
    if as_messages:
        advice.reasons.append(
            "prompts are text: --as_messages asks them as the user's turn, by the chat template; "
            "leave it out where a base model is to go on with the text as it stands"
        )
    if name in job.registry.datasets:
        advice.reasons.append(
            f"{name} is embedded: it has demonstrations for SFT and preferences for DPO too"
        )
    if job.options.model_name_or_path is None:
        advice.reasons.append(
            f"the command trains the embedded {EMBEDDED}, to see that all of it works; name your "
            "own with --model_name_or_path, such as deepseek-ai/deepseek-llm-7b-base, and add "
            "--qlora on one GPU"
        )
    return {
        "method": advice.method,
        "loss": preset.values.get("loss_type", advice.loss) if advice.rewards else advice.loss,
        "rewards": advice.rewards,
        "preset": advice.preset,
        "command": shlex.join(_words(job, advice, as_messages)),
        "reasons": advice.reasons,
        "kind": job.kind.name,
        "data": asdict(figures),
    }


def _fit_lengths(advice: Advice, figures: Figures, preset: Any) -> None:
    """Raise ``max_length`` where rows are longer, which only a tokenizer can tell."""
    if figures.tokens is None or advice.rewards:
        return
    longest = figures.tokens["row"].longest
    limit = preset.get("max_length")
    if limit is not None and longest > limit:
        needed = -(-longest // ROUND) * ROUND
        advice.options["max_length"] = needed
        advice.reasons.append(
            f"the longest row has {longest} tokens, without its template, and the preset cuts at "
            f"{limit}"
        )


def _are_to_be_turns(job: Job) -> bool:
    """Whether the rows have prompts that are text, and the model a template for turns."""
    first = data.rename_columns(job.dataset, job.kind.columns, "the dataset")[0]
    row = first if job.kind.rewrite is None else job.kind.rewrite(first)
    if not isinstance(row.get("prompt"), str):
        return False
    name, tokenizer = job.options.model_name_or_path, job.tokenizer
    if name is None or name in job.registry.models:
        return True
    return bool(tokenizer.chat_template or chat.recognise(tokenizer, name, job.registry))


def _words(job: Job, advice: Advice, as_messages: bool) -> list[str]:
    options = job.options
    words = ["trl-deepseek", advice.command]
    words += ["--model_name_or_path", options.model_name_or_path or EMBEDDED]
    words += ["--dataset_name", str(options.dataset_name)]
    if options.dataset_config is not None:
        words += ["--dataset_config", options.dataset_config]
    if options.dataset_kwargs is not None:
        words += ["--dataset_kwargs", json.dumps(options.dataset_kwargs)]
    if options.dataset_train_split != "train":
        words += ["--dataset_train_split", options.dataset_train_split]
    if job.kind.columns:
        words += ["--columns", *(f"{old}={new}" for old, new in job.kind.columns.items())]
    words += ["--as_messages"] if as_messages else []
    words += ["--preset", advice.preset]
    if advice.rewards:
        words += ["--reward_funcs", *advice.rewards]
    for option, value in advice.options.items():
        words += [f"--{option}", str(value)]
    if options.plugins:
        words += ["--plugins", *options.plugins]
    return [*words, "--output_dir", options.output_dir]
