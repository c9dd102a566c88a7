"""``trl-deepseek run``: the stages of a recipe, one after another, each in a process of its own.

All stages are checked before the first begins. Run again, the same command goes on where the last
run ended, in the middle of a stage from its last checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from trl_deepseek import checkpoints, jobs, secrets, stopping
from trl_deepseek.cli import merge, training
from trl_deepseek.cli.output import machine_readable, status
from trl_deepseek.cli.parser import Parser
from trl_deepseek.errors import RunError, UserError
from trl_deepseek.jobs.progress import Progress
from trl_deepseek.jobs.recipe import Recipe, Stage, located, read
from trl_deepseek.workers.supervised import end_with_parent
from trl_deepseek.yaml_files import Settings, write_mapping


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="YAML file: output_dir and stages.")
    parser.add_argument(
        "--restart",
        metavar="STAGE",
        help="Remove what this stage and those after it have written, and run them anew.",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Print the memory that each training stage would take and end; needs no data.",
    )
    parser.add_argument("--gpu_memory", metavar="SIZE", help="With --dry_run: to fit into.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object at the end.")


def run(args: argparse.Namespace) -> int:
    if args.dry_run:
        return dry_run(args)
    recipe = read(args.recipe, check_names)
    with machine_readable(args.json):
        parsed = {stage.name: _parse(stage, recipe) for stage in recipe.stages}
        progress = Progress(recipe)
        progress.check(recipe, args.restart)
        for stage in recipe.stages:
            if not progress.is_done(stage) or args.restart:
                _check(stage, parsed[stage.name], recipe)
        if args.restart:
            progress.forget(recipe, args.restart)
        for number, stage in enumerate(recipe.stages, 1):
            title = f"[{number}/{len(recipe.stages)}] {stage.name}"
            if progress.is_done(stage):
                print(f"{title}: done before", file=sys.stderr)
                continue
            print(f"{title}: {_summary(stage)}", file=sys.stderr, flush=True)
            _carry_out(stage, recipe, progress)
            if by := stopping.requested():  # as the stage was about to end
                again = f"`trl-deepseek run {recipe.file}` goes on after it"
                raise stopping.Interrupted(by, f"stage {stage.name!r} is done; {again}")
    if args.json:
        print(json.dumps({"output_dir": recipe.output_dir, "stages": progress.stages}))
    else:
        _show(recipe, progress)
    return 0


def dry_run(args: argparse.Namespace) -> int:
    """Estimate the memory of every stage that trains, from the config of its first model."""
    from trl_deepseek.cli.dry_run import show
    from trl_deepseek.memory import report

    recipe = read(args.recipe, check_names)
    budget = report.parse_size(args.gpu_memory) if args.gpu_memory else None
    answers = {}
    with machine_readable(args.json):
        for stage in recipe.stages:
            options = _parse(stage, recipe)
            if stage.command not in jobs.TRAINING:
                continue
            with _naming(stage, recipe):
                job = jobs.kind(stage.command).settle(from_base(stage, options, dry_run=True))
                with status(f"stage {stage.name}") as tell:
                    answers[stage.name] = report.answer_for(job, budget, tell)
    if args.json:
        print(json.dumps(answers))
    else:
        for name, answer in answers.items():
            print(f"stage {name}")
            show(answer)
    return 0


def parser_of(command: str) -> Parser:
    """The parser of a stage's command."""
    parser = Parser(prog=f"trl-deepseek {command}")
    if command in jobs.TRAINING:
        training.add_arguments(parser, command)
    else:
        merge.add_arguments(parser)
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


def _check(stage: Stage, options: argparse.Namespace, recipe: Recipe) -> None:
    """All that the stage's command checks before it loads a model; says what is left for later.

    Raises:
        UserError: Names the stage.
    """
    if stage.command not in jobs.TRAINING:
        return
    to_come = {"to_come": stage.folders} if stage.command == "grpo" else {}
    with _naming(stage, recipe):
        job = jobs.kind(stage.command).check(from_base(stage, options), **to_come)
    for sentence in job.later:
        print(f"stage {stage.name!r}: {sentence}", file=sys.stderr)


def _naming(stage: Stage, recipe: Recipe) -> contextlib.AbstractContextManager[None]:
    """Errors inside name the line of the file and the stage."""
    where = f"{recipe.file}:{stage.line}: stage {stage.name!r}"
    return located(where, stage.options, stage.options.lines)


def _summary(stage: Stage) -> str:
    source = stage.options.get("adapter") or stage.options["model_name_or_path"]
    return f"{stage.command} of {source} into {stage.output_dir}"


def _carry_out(stage: Stage, recipe: Recipe, progress: Progress) -> None:
    """Run one stage to its end and note it.

    Raises:
        RunError: Its process failed.
        UserError: Its process found its input wrong.
        Interrupted: A signal ended it; says how to go on.
    """
    started = time.monotonic()
    progress.begin(stage)
    words = _command_line(stage, recipe)
    launcher: tuple[str, ...] = (sys.executable,)
    if recipe.launcher and stage.command != "merge":  # a merge is the work of one process
        launcher = recipe.launcher
    code, output = _wait_for([*launcher, "-m", "trl_deepseek", *words], stage)
    again = f"`trl-deepseek run {recipe.file}` goes on with it"
    by = stopping.requested() or _ended_by(code)
    if code != 0 and by is not None:
        raise stopping.Interrupted(by, f"stage {stage.name!r} is unfinished; {again}")
    if code != 0:
        kind = UserError if code == 2 else RunError  # as the stage's own command found it
        raise kind(f"stage {stage.name!r} ended with exit code {code}, see above; {again}")
    lines = output.strip().splitlines()
    progress.end(stage, time.monotonic() - started, json.loads(lines[-1]) if lines else None)


def _command_line(stage: Stage, recipe: Recipe) -> list[str]:
    """What follows ``trl-deepseek``; the options of a training stage are kept as a config file."""
    output = Path(stage.output_dir)
    if stage.command == "merge":
        if output.exists():  # written whole or not at all, but not noted before a kill
            shutil.rmtree(output)
        return ["merge", *words_of(stage, parser_of(stage.command), stage.options), "--json"]
    file = Path(recipe.output_dir, f"{stage.name}.yaml")
    found = checkpoints.newest(output, only_model=True)
    begun = found.folder is not None
    if not begun and found.torn:
        print(f"stage {stage.name!r} begins anew; {found.passed_over()}", file=sys.stderr)
    options = dict(stage.options)
    if begun and options.get("init_from_checkpoint"):
        options = checkpoints.resumed(options)
    write_mapping(file, secrets.hidden(options))
    words = [stage.command, "--config", str(file), "--json"]
    return [*words, "--resume_from_checkpoint", "true"] if begun else words


def _ended_by(code: int) -> signal.Signals | None:
    """The signal that a process's exit code speaks of."""
    number = code - 128 if code > 128 else -code
    return signal.Signals(number) if number in stopping.SIGNALS else None


def _wait_for(command: list[str], stage: Stage) -> tuple[int, str]:
    """Run a process that shares stderr; its exit code and stdout. It never outlives this one.

    It is in a session of its own, so that of what the terminal or a batch system sends it gets each
    signal once, from here.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # As -P, for a launcher's processes too: what lies in the working directory is not to run.
        env=os.environ | {"PYTHONSAFEPATH": "1"} | secrets.handed_on(stage.options),
        preexec_fn=functools.partial(end_with_parent, os.getpid(), by=signal.SIGTERM),
    )

    def send(number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    try:
        with stopping.passing_on(send):
            output, _ = process.communicate()
        return process.returncode, output
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def _show(recipe: Recipe, progress: Progress) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=recipe.file)
    for heading in ("stage", "command", "seconds", "train loss", "saved in"):
        table.add_column(
            heading, justify="right" if heading in ("seconds", "train loss") else "left"
        )
    for stage in recipe.stages:
        noted = progress.stages[stage.name]
        loss = ((noted.get("result") or {}).get("metrics") or {}).get("train_loss")
        table.add_row(
            stage.name,
            stage.command,
            f"{noted['seconds']:.0f}",
            "" if loss is None else f"{loss:.3f}",
            stage.output_dir,
        )
    Console().print(table)
