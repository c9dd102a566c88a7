"""The training commands, one for each module of ``trl_deepseek.jobs`` that trains."""

from __future__ import annotations

import argparse
import json
import sys

from trl_deepseek import jobs
from trl_deepseek.cli import dry_run
from trl_deepseek.cli.output import hide_progress_bars, machine_readable


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The options of one training command."""
    from trl_deepseek.jobs.options import DataArguments, ModelArguments, add_dataclasses

    options = jobs.kind(command).OPTIONS
    add_dataclasses(parser, [DataArguments, *options, ModelArguments])
    parser.add_argument(
        "--qlora", action="store_true", help="Short for --quantization qlora: 4 bits and LoRA."
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file of options; flags win over it.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object at the end.")
    parser.add_argument(
        "--overwrite_output_dir",
        action="store_true",
        help="Begin anew in a folder that holds a run; what it holds is moved into replaced-N.",
    )
    dry_run.add_flags(parser)
    parser.set_defaults(disable_tqdm=not sys.stderr.isatty(), command=command, tells=True)


def run(args: argparse.Namespace) -> int:
    """Check, train, save, and say where; progress goes to stderr with ``--json``."""
    from trl_deepseek.jobs import output_folder, running

    if not sys.stderr.isatty():
        hide_progress_bars()
    if args.dry_run:
        return dry_run.run(args)
    with machine_readable(args.json):
        job = jobs.kind(args.command).check(args)
        output_folder.take(job, overwrite=args.overwrite_output_dir)
        trainer = job.build()
        result = running.train(trainer)
    if not trainer.is_world_process_zero():
        return 0
    output = str(trainer.args.output_dir)
    if args.json:
        print(json.dumps({"output_dir": output, "metrics": result.metrics}))
    else:
        print(f"model and tokenizer saved in {output}")
    return 0
