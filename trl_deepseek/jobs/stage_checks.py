"""What can be checked of a recipe's stage before the stages that it uses have been run."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from trl_deepseek import jobs
from trl_deepseek.engines.checking import check_importable, check_installed
from trl_deepseek.errors import ConfigError, DataError, TemplateError
from trl_deepseek.jobs import references, stages
from trl_deepseek.jobs.options import build_dataclasses
from trl_deepseek.jobs.recipe import Stage
from trl_deepseek.rewards.resolving import MODEL_PREFIX
from trl_deepseek.trainers.inputs import registry_for

ASK, ANSWER = [{"role": "user", "content": "1"}], [{"role": "assistant", "content": "1"}]
# What sample writes, for checks of everything but the rows themselves.
LIKE_PAIRS = {"prompt": ASK, "chosen": ANSWER, "rejected": ANSWER}
LIKE_ANSWERS = {"prompt": ASK, "completion": ANSWER}
STAND_INS = 64
UNWRITTEN = ".anew.jsonl"  # in place of a file that is moved before its stage begins
SCORED_BY = ("reward_funcs", "metrics")  # options that may name reward models


def check(
    stage: Stage, options: argparse.Namespace, done: Collection[str], *, anew: bool = False
) -> list[str]:
    """Make every check that the stage's command makes before it loads a model.

    Args:
        stage: The stage.
        options: As its command parses them.
        done: The names of earlier stages that have been run.
        anew: Whether what the stage has written before is out of the way when it begins.

    Returns:
        What could not be checked yet, each in a sentence.

    Raises:
        UserError: Something does not exist or does not fit.
    """
    to_come = [each for name, each in stage.uses.items() if name not in done]
    later: list[str] = []
    if stage.command == "merge":
        return later  # its adapter is that of a stage, which has been checked
    options = with_base(options, to_come)
    rows = next((each for each in to_come if _reads(stage, each)), None)
    if stage.kind.trains:
        scorers = {"to_come": [each.output_dir for each in to_come]}
        more: dict[str, Any] = scorers if stage.command == "grpo" else {}
        kind = jobs.kind(stage.command)
        if rows is None:
            later += kind.check(options, **more).later
        elif stage.command == "grpo":
            if kind.settle(options).config.use_vllm:
                check_installed("use_vllm")
            check_importable("GRPO")
        else:
            later += _check_with_stand_ins(stage, options, rows)
    else:
        later += _without_scorers(options, to_come)
        if [] in (getattr(options, name, None) for name in SCORED_BY):
            return later
        module = stages.module(stage.command)
        if anew and stage.kind.writes == "output_file":
            options.output_file = f"{stage.output_dir}/{UNWRITTEN}"
        (chosen,) = build_dataclasses(options, [getattr(module, stage.kind.options)])
        if rows is None:
            module.check(chosen, registry_for(options))
    if rows is not None:
        later.append(f"its rows are checked once stage {rows.name!r} has written them")
    return later


def with_base(options: argparse.Namespace, to_come: Collection[Stage]) -> argparse.Namespace:
    """The options with the first model of its chain in place of each model that is to come."""
    bases = {each.output_dir: each.base for each in to_come}
    changed = argparse.Namespace(**vars(options))
    for option in references.MODELS:
        value = getattr(options, option, None)
        if isinstance(value, list):
            setattr(changed, option, [bases.get(each, each) for each in value])
        elif value in bases:
            setattr(changed, option, bases[value])
    return changed


def reads_rows_of_a_stage(stage: Stage) -> bool:
    """Whether its data is what an earlier stage writes."""
    return any(_reads(stage, each) for each in stage.uses.values())


def _reads(stage: Stage, source: Stage) -> bool:
    file = source.kind.where(source.output_dir)
    named = [stage.options.get(name) for name in ("dataset_name", "eval_dataset")]
    parts = [part.get("path") for part in stage.options.get("datasets") or []]
    return source.kind.makes == "rows" and file in (*named, *parts)


def _check_with_stand_ins(stage: Stage, options: argparse.Namespace, rows: Stage) -> Iterator[str]:
    """Check a job of training on rows that are to come with others of their shape."""
    pairs = bool(rows.options.get("pairs"))
    if pairs == (stage.command == "sft"):
        needed, way = ("answers", "leave pairs out") if pairs else ("pairs", "give it pairs: true")
        raise ConfigError(
            f"dataset_name: stage {rows.name!r} does not write {needed}, which {stage.command} "
            f"trains on\n  {way}"
        )
    with tempfile.TemporaryDirectory() as folder:
        file, row = Path(folder, stages.ROWS), LIKE_PAIRS if pairs else LIKE_ANSWERS
        file.write_text((json.dumps(row) + "\n") * STAND_INS, encoding="utf-8")
        changed = argparse.Namespace(**vars(options))
        changed.dataset_name, changed.datasets, changed.columns = str(file), None, None
        changed.eval_dataset, changed.eval_strategy = None, "no"
        try:
            yield from jobs.kind(stage.command).check(changed).later
        except (DataError, TemplateError):  # of these rows, which are not the real ones
            jobs.kind(stage.command).settle(options)


def _without_scorers(options: argparse.Namespace, to_come: Collection[Stage]) -> Iterator[str]:
    """Take the reward models that are to come out of the options."""
    absent = {MODEL_PREFIX + each.output_dir for each in to_come}
    for option in SCORED_BY:
        named = getattr(options, option, None) or []
        if not absent.intersection(named):
            continue
        setattr(options, option, [name for name in named if name not in absent])
        options.reward_weights = None  # by names that are not all known yet
        for name in named:
            if name in absent:
                yield f"{name!r} is checked once that model is trained"
