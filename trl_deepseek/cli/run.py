"""``trl-deepseek run``: the stages of a recipe, one after another, each in a process of its own.

All stages are checked before the first begins. Run again, the same command goes on where the last
run ended, in the middle of a stage from its last checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from trl_deepseek import checkpoints, jobs, processes, report, secrets, stopping
from trl_deepseek.cli import recipe_page, training
from trl_deepseek.cli.main import telling
from trl_deepseek.cli.output import machine_readable, show_report, status
from trl_deepseek.cli.parser import Parser
from trl_deepseek.errors import ConfigError, RunError, UserError
from trl_deepseek.jobs import launching, made_from, repeating, stage_checks, stage_process
from trl_deepseek.jobs.places import located
from trl_deepseek.jobs.progress import Progress, progress_of
from trl_deepseek.jobs.recipe import Recipe, Stage, read, read_values
from trl_deepseek.jobs.stages import KINDS
from trl_deepseek.trainers import manifest, provenance
from trl_deepseek.trainers.inputs import registry_for
from trl_deepseek.yaml_files import Settings, write_mapping

LAUNCHER_LIMIT = 60  # seconds in which it starts, where a recipe is looked at and not run

# What a recipe is most often run again with.
OVER = {
    "model_name_or_path": "The model to begin with",
    "dataset_name": "The dataset",
    "output_dir": "The folder of all stages",
    "seed": "The seed",
    "launcher": "What starts the processes of stages that train",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", metavar="RECIPE", nargs="?", help="YAML file: output_dir and stages."
    )
    parser.add_argument(
        "--from_manifest",
        metavar="FILE",
        help="Instead of a recipe: repeat the run or recipe of this run.json, or folder, in "
        "--output_dir.",
    )
    for option, what in OVER.items():
        parser.add_argument(f"--{option}", help=f"{what}, over the one beside the stages.")
    parser.add_argument(
        "--restart",
        metavar="STAGE",
        help="Remove what this stage and those that use it have written, and run them anew.",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Print the memory that each training stage would take and end; needs no data.",
    )
    parser.add_argument("--gpu_memory", metavar="SIZE", help="With --dry_run: to fit into.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object at the end.")


def run(args: argparse.Namespace) -> int:
    if args.from_manifest is not None:
        return repeat(args)
    if args.recipe is None:
        raise ConfigError("name a recipe, or a run's manifest with --from_manifest")
    return dry_run(args) if args.dry_run else _run(args)


def repeat(args: argparse.Namespace) -> int:
    """Run what a manifest describes once more, and say what has changed since."""
    alone = ("recipe", "dry_run", "restart", "gpu_memory", *OVER)
    others = [name for name in alone if getattr(args, name) and name != "output_dir"]
    if others:
        raise ConfigError(
            f"from_manifest repeats a run as it was: leave {others[0]} out\n"
            "  only --output_dir and --json go with it"
        )
    former = repeating.read(args.from_manifest, args.output_dir)
    if former.command == repeating.RECIPE:
        args.recipe = former.write_recipe(args.output_dir)
        args.output_dir = None  # it is in there
        return _run(args, former)
    parser = parser_of(former.command)
    words = parser.as_flags(former.into(args.output_dir))
    options = parser.parse_args([*words, *["--json"] * args.json])

    def compare(job: Any) -> None:
        now = manifest.of(job.inputs, job.inputs.made_with, int(os.environ.get("WORLD_SIZE", "1")))
        own = provenance.differences(former.manifest, job.inputs.made_with)
        _say_changes(former, [*own, *manifest.differences(former.manifest, now)])

    with telling("run"):
        return training.run(options, compare)


def _say_changes(former: repeating.Former, changed: Collection[str]) -> None:
    since = f"since {former.file} was written"
    _say("\n  ".join([f"what has changed {since}:", *changed]) if changed else f"as {since}")


def _run(args: argparse.Namespace, former: repeating.Former | None = None) -> int:
    values = read_values(args.recipe, _over(args))
    recipe = read(args.recipe, check_names, _over(args))
    folder = Path(recipe.output_dir)
    with machine_readable(args.json):
        parsed = {stage.name: _parse(stage, recipe) for stage in recipe.stages}
        progress = Progress(recipe)
        progress.check(recipe, args.restart)
        restarted = recipe.depending_on(args.restart) if args.restart else set()
        made = _made_from(recipe, parsed, progress)
        stale = progress.stale(recipe, made)
        for name, reasons in stale.items():
            if name not in restarted:
                _say(f"stage {name!r} is run anew: {'; '.join(reasons)}")
        done = {
            stage.name
            for stage in recipe.stages
            if progress.is_done(stage) and stage.name not in restarted | set(stale)
        }
        to_do = [stage for stage in recipe.stages if stage.name not in done]
        with processes.planned(number_of_processes(recipe, to_do)):
            for stage in to_do:
                anew = stage.name in restarted | set(stale)
                _check(stage, parsed[stage.name], recipe, done, anew=anew)
        own = manifest.of_recipe(values)
        if former is not None:
            _say_changes(former, _changed(former, own, made))
        if args.restart:
            progress.forget(recipe, args.restart)
        folder.mkdir(parents=True, exist_ok=True)
        before = str(progress.file) if progress.stages else None
        try:
            with manifest.noted(folder, own, before):
                _carry_out_all(recipe, progress, done, set(stale) - restarted, made)
        finally:
            report.written_beside(folder)
    if args.json:
        print(json.dumps({"output_dir": recipe.output_dir, "stages": progress.stages}))
    else:
        recipe_page.show(recipe, progress)
        show_report(recipe.output_dir)
    return 0


def _changed(
    former: repeating.Former, own: Mapping[str, Any], made: Mapping[str, Any]
) -> list[str]:
    """What has changed since a recipe was run: around it, and what its stages are made from."""
    before = progress_of(former.file.parent)
    return [
        *manifest.differences(former.manifest, own),
        *(
            f"stage {name!r}: {each}"
            for name, now in made.items()
            if name in before
            for each in made_from.differences(before[name], now)
        ),
    ]


def _carry_out_all(
    recipe: Recipe,
    progress: Progress,
    done: Collection[str],
    stale: Collection[str],
    made: Mapping[str, Any],
) -> None:
    """Run the stages that are not done, in their order."""
    for number, stage in enumerate(recipe.stages, 1):
        title = f"[{number}/{len(recipe.stages)}] {stage.name}"
        if stage.name in done:
            _say(f"{title}: done before")
            continue
        if stage.name in stale:
            was = progress.set_aside(stage)
            _say(f"{title}: what it had written is now in {was}")
        _say(f"{title}: {_summary(stage)}")
        progress.begin(stage, made[stage.name])
        _carry_out(stage, recipe, progress)
        if by := stopping.requested():  # as the stage was about to end
            again = f"`{recipe.again}` goes on after it"
            raise stopping.Interrupted(by, f"stage {stage.name!r} is done; {again}")


def dry_run(args: argparse.Namespace) -> int:
    """Estimate the memory of every stage that trains, from the config of its first model."""
    from trl_deepseek.cli.dry_run import show
    from trl_deepseek.memory import report as memory

    recipe = read(args.recipe, check_names, _over(args))
    budget = memory.parse_size(args.gpu_memory) if args.gpu_memory else None
    answers = {}
    with (
        machine_readable(args.json),
        processes.planned(number_of_processes(recipe, recipe.stages, LAUNCHER_LIMIT)),
    ):
        for stage in recipe.stages:
            options = _parse(stage, recipe)
            if not stage.kind.trains:
                continue
            with _naming(stage, recipe):
                job = jobs.kind(stage.command).settle(from_base(stage, options, dry_run=True))
                with status(f"stage {stage.name}") as tell:
                    answers[stage.name] = memory.answer_for(job, budget, tell)
    if args.json:
        print(json.dumps(answers))
    else:
        for name, answer in answers.items():
            print(f"stage {name}")
            show(answer)
    return 0


def _over(args: argparse.Namespace) -> Settings:
    return Settings({name: value for name in OVER if (value := getattr(args, name)) is not None})


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def number_of_processes(recipe: Recipe, stages: Sequence[Stage], limit: float | None = None) -> int:
    """How many processes the launcher starts for the stages; says so.

    Raises:
        ConfigError: It does not start, or not within ``limit`` seconds.
    """
    if not recipe.launcher or not any(stage.kind.trains for stage in stages):
        return 1
    try:
        with status("asking the launcher"):
            found = launching.number_of_processes(recipe.launcher, limit)
    except ConfigError as error:
        error.place = recipe.file
        raise
    _say(f"the launcher starts {found} process{'es' * (found > 1)} for each stage that trains")
    return found


def parser_of(command: str) -> Parser:
    """The parser of a stage's command."""
    parser = Parser(prog=f"trl-deepseek {command}")
    if KINDS[command].trains:
        training.add_arguments(parser, command)
    else:
        importlib.import_module(f"trl_deepseek.cli.{command}").add_arguments(parser)
    return parser


_names = functools.cache(parser_of)  # parsers that are asked for names only: to parse changes them


def check_names(command: str, options: Settings) -> None:
    """Refuse options that the command of a stage does not have.

    Raises:
        ConfigError: Names them.
    """
    _names(command).check_names(options)


def _parse(stage: Stage, recipe: Recipe) -> argparse.Namespace:
    """The stage's options as its command would parse them.

    Raises:
        ConfigError: The command has no such option, or it has another type.
    """
    with _naming(stage, recipe):
        parser = parser_of(stage.command)
        return parser.parse_args(words_of(stage, parser, stage.options))


def words_of(stage: Stage, parser: Parser, options: Settings) -> list[str]:
    """The command line that options of a stage mean."""
    options = Settings(options)
    adapter = [str(options.pop("adapter"))] if stage.command == "merge" else []
    return [*adapter, *parser.as_flags(options)]


def from_base(stage: Stage, options: argparse.Namespace, **more: Any) -> argparse.Namespace:
    """The options, with the model whose shape is known before the earlier stages have run."""
    return argparse.Namespace(**{**vars(options), "model_name_or_path": stage.base, **more})


def _check(
    stage: Stage,
    options: argparse.Namespace,
    recipe: Recipe,
    done: Collection[str],
    *,
    anew: bool,
) -> None:
    """All that the stage's command checks before it loads a model; says what is left for later.

    Raises:
        UserError: Names the stage.
    """
    with _naming(stage, recipe):
        later = stage_checks.check(stage, options, done, anew=anew)
    for sentence in later:
        _say(f"stage {stage.name!r}: {sentence}")


def _made_from(
    recipe: Recipe, parsed: Mapping[str, argparse.Namespace], progress: Progress
) -> dict[str, Any]:
    """What each stage would be made from today; see :mod:`trl_deepseek.jobs.made_from`."""
    found = {}
    for stage in recipe.stages:
        options = parsed[stage.name]
        with _naming(stage, recipe):
            registry = registry_for(options)
        found[stage.name] = made_from.of(stage, options, registry, progress.stages.get(stage.name))
    return found


def _naming(stage: Stage, recipe: Recipe) -> contextlib.AbstractContextManager[None]:
    """Errors inside name the line of the file and the stage."""
    where = f"{recipe.file}:{stage.line}: stage {stage.name!r}"
    return located(where, stage.options, stage.options.lines)


def _summary(stage: Stage) -> str:
    source = stage.options[stage.kind.model]
    shown = ", ".join(map(str, source)) if isinstance(source, list) else source
    return f"{stage.command} of {shown} into {stage.output_dir}"


def _carry_out(stage: Stage, recipe: Recipe, progress: Progress) -> None:
    """Run one stage to its end and note it.

    Raises:
        RunError: Its process failed.
        UserError: Its process found its input wrong.
        Interrupted: A signal ended it; says how to go on.
    """
    started = time.monotonic()
    words = _command_line(stage, recipe)
    launcher: tuple[str, ...] = (sys.executable,)
    if recipe.launcher and stage.kind.trains:
        launcher = recipe.launcher
    code, output = stage_process.wait_for([*launcher, "-m", "trl_deepseek", *words], stage.options)
    again = f"`{recipe.again}` goes on with it"
    by = stopping.requested() or stage_process.ended_by(code)
    if code != 0 and by is not None:
        raise stopping.Interrupted(by, f"stage {stage.name!r} is unfinished; {again}")
    if code != 0:
        kind = UserError if code == 2 else RunError  # as the stage's own command found it
        raise kind(f"stage {stage.name!r} ended with exit code {code}, see above; {again}")
    lines = output.strip().splitlines()
    progress.end(stage, time.monotonic() - started, json.loads(lines[-1]) if lines else None)


def _command_line(stage: Stage, recipe: Recipe) -> list[str]:
    """What follows ``trl-deepseek``; the options are in a config file where the command has one."""
    output, parser = Path(stage.output_dir), parser_of(stage.command)
    if not any(action.dest == "config" for action in parser._actions):
        if output.exists():
            shutil.rmtree(output)  # written whole or not at all, but not noted before a kill
        return [stage.command, *words_of(stage, parser, stage.options), "--json"]
    file, options, words = Path(recipe.output_dir, f"{stage.name}.yaml"), dict(stage.options), []
    if stage.kind.trains:
        found = checkpoints.newest(output, only_model=True)
        if found.folder is not None:
            words = ["--resume_from_checkpoint", "true"]
            if options.get("init_from_checkpoint"):
                options = checkpoints.resumed(options)
        elif found.torn:
            _say(f"stage {stage.name!r} begins anew; {found.passed_over()}")
    write_mapping(file, secrets.hidden(options))
    return [stage.command, "--config", str(file), "--json", *words]
