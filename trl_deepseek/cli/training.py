"""The training commands, one for each module of ``trl_deepseek.jobs`` that trains."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from trl_deepseek import jobs
from trl_deepseek.cli import dry_run
from trl_deepseek.cli.output import hide_progress_bars, machine_readable, show_report
from trl_deepseek.cli.parser import Parser
from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs.places import naming_those_of


def add_arguments(parser: Parser, command: str) -> None:
    """The options of one training command, or of an alias, which is a command with its loss."""
    from trl_deepseek.jobs.options import DataArguments, ModelArguments, add_dataclasses

    options = jobs.kind(command).OPTIONS
    add_dataclasses(parser, [DataArguments, *options, ModelArguments])
    parser.add_argument(
        "--qlora", action="store_true", help="Short for --quantization qlora: 4 bits and LoRA."
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="Settings of a paper in the place of defaults (`trl-deepseek presets`); flags and "
        "YAML win over them.",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of options; flags win over it.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object at the end.")
    parser.add_argument(
        "--overwrite_output_dir",
        action="store_true",
        help="Begin anew in a folder that holds a run; what it holds is moved into replaced-N.",
    )
    dry_run.add_flags(parser)
    _set_apart(parser, [*options, ModelArguments])
    parser.set_defaults(disable_tqdm=not sys.stderr.isatty(), command=command, tells=True)
    if command in jobs.ALIASES:
        (loss_type,) = (each for each in parser._actions if each.dest == "loss_type")
        loss_type.type = functools.partial(_own_loss, command)
        parser.set_defaults(loss_type=[command], command="preference")
        parser.counted.add("loss_type")


def _set_apart(parser: Parser, options: Sequence[type]) -> None:
    """Have ``--help`` list what TRL's and transformers' configs have behind all else."""
    known = {field.name for kind in options for field in fields(kind)}
    own = {name for kind in options for name in _added_to_trls(kind)}
    parser.usage = f"{parser.prog} --model_name_or_path MODEL --dataset_name DATA [options]"
    theirs = parser.add_argument_group("options of TRL and transformers, in their own words")
    for action in list(parser._optionals._group_actions):
        if action.dest in known - own - {"model_name_or_path", "output_dir"}:
            parser._optionals._group_actions.remove(action)
            theirs._group_actions.append(action)


def _added_to_trls(kind: type) -> Iterator[str]:
    """The fields that classes of this package write down."""
    for base in kind.__mro__:
        if base.__module__.startswith(__package__.partition(".")[0]):
            yield from vars(base).get("__annotations__", {})


def _own_loss(command: str, name: str) -> str:
    if name != command:
        raise argparse.ArgumentTypeError(
            f"{command} trains with the loss {command!r}, not {name!r}\n"
            f"  trl-deepseek preference --loss_type {name} does"
        )
    return name


def run(args: argparse.Namespace, look: Callable[[Any], None] = lambda job: None) -> int:
    """Check, train, save, and say where; progress goes to stderr with ``--json``.

    Args:
        args: As parsed.
        look: Is shown the checked job before a model is loaded.
    """
    from trl_deepseek.cli import log_lines
    from trl_deepseek.jobs import output_folder, peers, running

    if not sys.stderr.isatty():
        hide_progress_bars()
    if args.dry_run:
        with naming_those_of(args):
            return dry_run.run(args)
    if args.gpu_memory:
        raise ConfigError("gpu_memory is for --dry_run, which compares with it: add --dry_run")
    with machine_readable(args.json):
        with naming_those_of(args):
            job = jobs.kind(args.command).check(args)
            output_folder.take(job, overwrite=args.overwrite_output_dir)
            look(job)
        with peers.named(job.config.ddp_timeout):
            trainer = job.build()
        log_lines.replace_printing(trainer, chosen="logging_steps" in args.given)
        result = running.train(trainer)
    end_engine = getattr(getattr(trainer, "vllm_generation", None), "end", None)
    if end_engine is not None:
        end_engine()
    # Or threads that still talk to other processes may abort this one as Python ends.
    trainer.accelerator.end_training()
    if not trainer.is_world_process_zero():
        return 0
    output = str(trainer.args.output_dir)
    if args.json:
        print(json.dumps({"output_dir": output, "metrics": result.metrics}))
    else:
        print(f"model and tokenizer saved in {output}")
        show_report(output)
    return 0
