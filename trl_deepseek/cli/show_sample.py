"""``trl-deepseek show-sample TRAINER``: the first rows of a training job as the model sees them.

It takes the options of the training command it is about, and loads no model weights.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import tempfile
from typing import TYPE_CHECKING, Any

from trl_deepseek.cli.parser import Parser
from trl_deepseek.jobs.recipe import TRAINING

if TYPE_CHECKING:
    from trl_deepseek.jobs.samples import Sample

SCORED, UNSCORED = "bold green", "bright_black"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trainer", choices=TRAINING, help="The training command it is about.")
    parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="Options of that command, and --rows N."
    )


def run(args: argparse.Namespace) -> int:
    from trl_deepseek.cli.training import hide_progress_bars, machine_readable
    from trl_deepseek.jobs.samples import row_numbers, samples, stand_in

    command = importlib.import_module(f"trl_deepseek.cli.{args.trainer}")
    parser = Parser(prog=f"trl-deepseek show-sample {args.trainer}")
    command.add_arguments(parser)
    parser.add_argument("--rows", type=int, default=3, help="How many rows to show.")
    options = parser.parse_args(args.options)
    with machine_readable(True), tempfile.TemporaryDirectory() as scratch:
        hide_progress_bars()
        job, build = command.prepare(options)
        tokenizer = job.load_tokenizer()
        job.model = stand_in(tokenizer, sequence_classification=job.config.sequence_classification)
        job.trainer_options = {"processing_class": tokenizer}
        job.train_dataset = job.train_dataset.take(max(options.rows, 1))
        job.eval_dataset = None
        kept = copy.copy(job.config)
        job.config.output_dir = scratch
        job.config.report_to = []
        job.config.eval_strategy = "no"
        job.config.quantization = None
        job.config.model_init_kwargs = None  # the stand-in is a model, not a name

        def trainer(max_length: int | None) -> Any:
            if hasattr(job.config, "max_length"):
                job.config.max_length = max_length
            return build()

        numbers = row_numbers(job.train_dataset, kept)
        shown = sorted(samples(trainer, kept, options.rows, numbers), key=lambda each: each.row)
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
