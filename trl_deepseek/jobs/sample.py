"""Completions drawn from a model, scored by rewards, and written as rows that training takes.

Everything is checked before a model is loaded. Prompts are finished some at a time, and what is
finished is on the disk (``trl_deepseek.rollouts.journal``): interrupted at any instant, the same
job goes on from there, and writes the same file as it would have undisturbed.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from trl_deepseek import chat, data, generation, rewards, stopping
from trl_deepseek.errors import ConfigError, DataError, TemplateError
from trl_deepseek.generation import Sampling
from trl_deepseek.jobs import idle_rules
from trl_deepseek.jobs.sample_options import SampleOptions
from trl_deepseek.registry import Registry
from trl_deepseek.rewards import own_rows, weights
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.rewards.placing import Guards
from trl_deepseek.rewards.verifiers import brought_by, verifier_of
from trl_deepseek.rollouts import for_training
from trl_deepseek.rollouts.drawing import Drawing
from trl_deepseek.rollouts.drawn import REPLACED, Kind, Selection
from trl_deepseek.rollouts.journal import Journal, replacing
from trl_deepseek.trainers import idle, provenance

logger = logging.getLogger(__name__)

AT_ONCE = 256  # completions that are drawn, scored and noted together
# Options that do not change what is in the file.
INCIDENTAL = ("output_file", "batch_size", "reward_timeout", "reward_workers")


@dataclass
class Job:
    """A sampling with everything checked that can be before a model is loaded."""

    options: SampleOptions
    registry: Registry
    rows: Any  # a Dataset with prompts
    tokenizer: Any  # with the template that trains, where one is registered
    functions: list[Any]
    selection: Selection
    sampling: Sampling
    journal: Journal


def check(options: SampleOptions, registry: Registry) -> Job:
    """The checked job.

    Raises:
        UserError: Something does not exist or does not fit, or the output file is another's.
    """
    options.check_engine()
    if options.task is not None:
        options.reward_funcs = [verifier_of(options.task, registry)]
    loaded = None
    named: Any = options.reward_funcs
    if options.goes_by_rewards and not named:
        loaded = _load(options, registry)
        named = brought_by(loaded, registry)
        options.reward_funcs = [each.name for each in named]
        if not named:
            raise ConfigError(
                f"{options.goes_by_rewards} goes by rewards: name some with --reward_funcs"
            )
    functions = rewards.resolve(named, registry)
    for function in functions:
        if not rewards.is_function(function):
            name = rewards.name_of(function)
            raise ConfigError(f"reward {name!r} is a model: write model:{name}")
    rewards.check_sandbox(functions, options.allow_unsandboxed_code)
    weighed = _weights(options, [rewards.name_of(each) for each in functions])
    name = str(options.model_name_or_path)
    tokenizer = generation.check(
        name, registry, quantization=options.quantization, chat_template=options.chat_template
    )
    loaded = _load(options, registry) if loaded is None else loaded
    rows = _read(options, registry, functions, tokenizer, loaded)
    kind: Kind = "pairs" if options.pairs else "best" if options.best_of is not None else "all"
    selection = Selection(kind, options.best_of or 1, options.min_reward, tuple(weighed))
    sampling = options.sampling
    idle.tell(options, idle_rules.DRAWING, sampling)
    idle.tell(options, idle_rules.SCORING, functions)
    output = Path(str(options.output_file)).expanduser()
    _check_place(output)
    journal = Journal(output, _settings(options, registry, functions, rows, tokenizer))
    return Job(options, registry, rows, tokenizer, functions, selection, sampling, journal)


def _weights(options: SampleOptions, names: list[str]) -> list[float]:
    weighed = weights.weigh(options.reward_weights, names)
    if weighed is None:
        return [1.0] * len(names)
    if not weighed.constant:
        raise ConfigError("reward_weights: there are no steps here by which a weight could change")
    return weighed.at(0)


def _load(options: SampleOptions, registry: Registry) -> Any:
    """The rows as they are named."""
    name = str(options.dataset_name)
    dataset_options: Any = options.dataset_kwargs
    rows = data.load(
        name,
        registry,
        kind="prompts",
        split=options.dataset_split,
        subset=options.dataset_config,
        size=options.max_samples,
        seed=options.seed,
        options=dataset_options,
    )
    rows = data.rename_columns(rows, data.column_mapping(options.columns or []), name)
    return data.as_messages(rows) if options.as_messages else rows


def _read(
    options: SampleOptions,
    registry: Registry,
    functions: Sequence[Any],
    tokenizer: Any,
    rows: Any,
) -> Any:
    """The prompts, each of which can be answered and scored."""
    name = str(options.dataset_name)
    rows = rows.take(min(len(rows), options.max_samples or len(rows)))
    rewards.check_columns(functions, rows.column_names)
    rewards.check_rows(functions, rows)
    rows = data.check_prompts(rows, name, rewards.columns_of(functions), who="sampling")
    if chat.holds_conversations(rows) and not tokenizer.chat_template:
        raise TemplateError(
            f"{name} holds conversations, and the tokenizer of {options.model_name_or_path} has "
            "no chat template\n  name one with --chat_template; registered: "
            f"{', '.join(registry.chat_templates)}"
        )
    prompts = rows.select_columns(
        [c for c in ("prompt", "tools", "chat_template_kwargs") if c in rows.column_names]
    )
    registered = chat.installed(tokenizer) is not None
    chat.check_conversations(prompts, tokenizer, name, control_tokens=registered)
    gone = [column for column in REPLACED if column in rows.column_names]
    if gone:
        logger.warning(
            "%s: what is drawn takes the place of the column%s %s",
            *(name, "s" * (len(gone) > 1), ", ".join(gone)),
        )
    if str(options.output_file).endswith(".jsonl"):
        _check_json(rows, name)
    return rows


def _check_json(rows: Any, source: str) -> None:
    first = rows[0]
    for column in rows.column_names:
        try:
            json.dumps(first[column])
        except TypeError as error:
            raise DataError(
                f"{source}: column {column!r} holds a {type(first[column]).__name__}, which JSON "
                "cannot\n  write a .parquet file, or leave the column out of the data"
            ) from error


def _check_place(output: Path) -> None:
    if output.is_dir():
        raise ConfigError(f"output_file: {str(output)!r} is a folder")
    parent = next(path for path in output.absolute().parents if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigError(f"output_file: nothing can be written in {str(parent)!r}")


def _settings(
    options: SampleOptions,
    registry: Registry,
    functions: Sequence[Any],
    rows: Any,
    tokenizer: Any,
) -> dict[str, Any]:
    """What decides what is in the file, as JSON gives it back."""
    versions = provenance.plugins_of(registry)
    origins = {entry.name: entry.origin.plugin for entry in registry.entries("rewards")}
    files: dict[str, str | None] = {}
    for named, function in zip(options.reward_funcs or (), functions, strict=True):
        plugin = origins.get(rewards.name_of(function))
        file = Path(named.partition(":")[0])
        if file.is_file():
            files[named] = provenance.digest(file.read_bytes())
        elif plugin is not None:
            files[named] = versions[plugin]["source"]
    kept = {name: value for name, value in vars(options).items() if name not in INCIDENTAL}
    made = {
        **kept,
        "weights' files": _digest_of_files(str(options.model_name_or_path)),
        "rows": provenance.digest_of_rows(rows),
        "template": provenance.digest(tokenizer.chat_template or ""),
        "rewards": files,
    }
    found: dict[str, Any] = json.loads(json.dumps(made))
    return found


def _digest_of_files(name: str) -> str | None:
    """Of the names, sizes and dates of a model's files; None where it is no folder."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return None
    files = sorted(path for path in folder.iterdir() if path.is_file())
    found = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return provenance.digest(repr(found))


def run(job: Job, *, show_progress: bool = False) -> dict[str, Any]:
    """Draw what is not drawn yet, write the file, and return the summary.

    The summary has ``output_file``, ``rows``, ``prompts``, ``completions``, ``cut_off``,
    ``rewards`` (a list of name, mean, scored, abstained, failed), ``passed_over`` (why, to how
    many) and ``prompts_without_rows``.

    Raises:
        Interrupted: By a signal; the message says how to go on.
        RunError: A reward fails on everything.
    """
    if job.journal.summary is not None:
        logger.info("%s is finished already", job.journal.output)
        return job.journal.summary
    with job.journal.open():
        left = [number for number in range(len(job.rows)) if number not in job.journal.drawn]
        if left and job.journal.drawn:
            done = len(job.rows) - len(left)
            logger.info("%d of %d prompts are finished; going on", done, len(job.rows))
        try:
            if left:
                _draw(job, left, show_progress)
            summary = _write(job)
            job.journal.close(summary)
        except KeyboardInterrupt as interrupt:
            said = f"{len(job.journal.drawn)} of {len(job.rows)} prompts are finished"
            raise stopping.explained(interrupt, f"{said}; the same command goes on") from None
    return summary


def _draw(job: Job, left: Sequence[int], show_progress: bool) -> None:
    """Draw and score the prompts that are left; each part of them is noted when it is finished."""
    options = job.options
    model, _ = generation.load(
        str(options.model_name_or_path),
        job.registry,
        seed=options.seed,
        quantization=options.quantization,
        chat_template=options.chat_template,
        dtype=options.dtype,
        engine=options.engine,
    )
    settings = Settings(
        on_error="abstain",
        timeout=options.reward_timeout,
        workers=options.reward_workers,
        output_dir=str(job.journal.output.parent),
        max_completion_length=options.max_new_tokens,
        allow_unsandboxed_code=options.allow_unsandboxed_code,
    )
    guards = Guards(job.functions, job.registry, settings, chat.generation_prefix(job.tokenizer))
    drawing = Drawing(model, job.tokenizer, job.sampling, guards.functions)
    missing = set(left)
    try:
        with tqdm(
            total=len(job.rows),
            initial=len(job.rows) - len(left),
            desc="Sampling",
            unit="prompt",
            disable=not show_progress,
        ) as bar:
            at_once = max(1, AT_ONCE // options.num_samples)
            for first in range(0, len(job.rows), at_once):
                # Always the same prompts together, so that what goes on is the same to the bit.
                numbers = range(first, min(first + at_once, len(job.rows)))
                if missing.isdisjoint(numbers):
                    continue
                drawn = drawing.draw([job.rows[number] for number in numbers], numbers)
                job.journal.add([each for each in drawn if each.prompt in missing])
                bar.update(len(missing.intersection(numbers)))
    finally:
        guards.close()


def _write(job: Job) -> dict[str, Any]:
    """Write the rows that are selected, all at once; the summary."""
    options, drawn = job.options, list(job.journal.drawn.values())
    how = ("seed", "top_p", "top_k", "max_new_tokens", "begin")
    provenance = {
        "model": str(options.model_name_or_path),
        "temperature": 0.0 if job.sampling.is_greedy else options.temperature or 1.0,
        **{name: getattr(options, name) for name in how},
    }
    made = for_training.select(
        job.selection, job.rows, job.journal.drawn, job.tokenizer, provenance
    )
    with replacing(job.journal.output) as aside:
        for_training.write(made.rows, aside)
    finished = [finished for each in drawn for finished in each.finished]
    return {
        "output_file": str(options.output_file),
        "rows": len(made.rows),
        "prompts": len(drawn),
        "completions": len(finished),
        "cut_off": finished.count(False),
        "rewards": [
            for_training.scores_of(
                rewards.name_of(each),
                [d for d in drawn if own_rows.is_own(each, job.rows[d.prompt])],
            )
            for each in job.functions
        ],
        "passed_over": {why: count for why, count in made.passed_over.most_common() if count},
        "prompts_without_rows": made.without,
    }


__all__ = ["Job", "SampleOptions", "check", "run"]
