"""``trl-deepseek show-sample TRAINER``: the first rows of a training job as the model sees them.

It takes the options of the training command it is about, and loads no model weights.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from trl_deepseek import jobs
from trl_deepseek.cli import training
from trl_deepseek.cli.parser import Parser
from trl_deepseek.jobs.places import naming_those_of

if TYPE_CHECKING:
    from trl_deepseek.jobs.samples import Sample

SCORED, UNSCORED = "bold green", "bright_black"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = (*jobs.TRAINING, *jobs.ALIASES)
    parser.add_argument("trainer", choices=commands, help="The training command it is about.")
    rest = parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="Options of that command, and --rows N."
    )
    rest.required = False  # argparse would name it where nothing is given


def run(args: argparse.Namespace) -> int:
    from trl_deepseek.cli.output import hide_progress_bars, machine_readable
    from trl_deepseek.jobs.samples import samples

    parser = Parser(prog=f"trl-deepseek show-sample {args.trainer}")
    training.add_arguments(parser, args.trainer)
    parser.add_argument("--rows", type=int, default=3, help="How many rows to show.")
    options = parser.parse_args(args.options)
    with machine_readable(True):
        hide_progress_bars()
        with naming_those_of(options):
            job = jobs.kind(args.trainer).check(options)
        tokenizer = job.inputs.tokenizer
        shown = sorted(samples(job, options.rows), key=lambda sample: sample.row)
    if options.json:
        print(json.dumps([_as_json(sample, tokenizer) for sample in shown], ensure_ascii=False))
    else:
        _show(shown, tokenizer)
    return 0


def _as_json(sample: Sample, tokenizer: Any) -> dict[str, Any]:
    return {
        "row": sample.row,
        "part": sample.part,
        "tokens": len(sample.input_ids),
        "scored": sum(sample.scored),
        "truncated": sample.truncated,
        "left_out": sample.left_out,
        "text": tokenizer.decode(sample.input_ids),
        "input_ids": sample.input_ids,
        "mask": [int(scored) for scored in sample.scored],
        "spans": [{"scored": scored, "text": text} for scored, text in _spans(sample, tokenizer)],
    }


def _show(shown: list[Sample], tokenizer: Any) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(
        Text.assemble(("the loss counts this", SCORED), "   ", ("and not this", UNSCORED))
    )
    for sample in shown:
        cut = f", {sample.truncated} more cut off by max_length" if sample.truncated else ""
        if sample.left_out:
            cut += "; max_length leaves nothing to learn, so the row is left out"
        console.print(
            f"\nrow {sample.row}{f' {sample.part}' if sample.part else ''}: "
            f"{len(sample.input_ids)} tokens, {sum(sample.scored)} with loss{cut}",
            style="bold",
        )
        line = Text()
        for scored, text in _spans(sample, tokenizer):
            line.append(text, style=SCORED if scored else UNSCORED)
        console.print(line, soft_wrap=True)


def _spans(sample: Sample, tokenizer: Any) -> list[tuple[bool, str]]:
    """Runs of tokens that are alike scored or not, as text.

    A run is decoded whole, since one character may be several tokens.
    """
    runs: list[tuple[bool, list[int]]] = []
    for token, scored in zip(sample.input_ids, sample.scored, strict=True):
        if not runs or runs[-1][0] != scored:
            runs.append((scored, []))
        runs[-1][1].append(token)
    return [(scored, tokenizer.decode(tokens)) for scored, tokens in runs]
