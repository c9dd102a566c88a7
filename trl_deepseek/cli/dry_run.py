"""``--dry_run``: print what a training command would take in memory."""

from __future__ import annotations

import argparse
import json
from typing import Any

from trl_deepseek import jobs
from trl_deepseek.cli import ranks
from trl_deepseek.cli.output import machine_readable, status


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Print the memory that this run would take and end; needs no weights and no data.",
    )
    parser.add_argument(
        "--gpu_memory",
        metavar="SIZE",
        help="With --dry_run: the memory to fit into, such as 24GB; also finds the largest batch.",
    )


def run(args: argparse.Namespace) -> int:
    """Estimate and print.

    Raises:
        UserError: The options contradict each other, or the model cannot be found.
    """
    from trl_deepseek.memory import report

    budget = report.parse_size(args.gpu_memory) if args.gpu_memory else None
    with machine_readable(args.json):
        job = jobs.kind(args.command).settle(args)
        with status("reading the model's config") as tell:
            answer = report.answer_for(job, budget, tell)
    if not ranks.speaks():
        return 0
    if args.json:
        print(json.dumps(answer))
    else:
        show(answer)
    return 0


def show(answer: dict[str, Any]) -> None:
    """Two tables for people: parameters by kind, and bytes by what holds them."""
    from rich.console import Console
    from rich.table import Table

    from trl_deepseek.memory.report import ROWS

    console = Console()
    # titles stand above the tables, which are narrower and would fold them
    console.print(f"{answer['model']}: {answer['parameters']:,} parameters")
    by_kind = Table()
    for name in ("", "parameters", "trained"):
        by_kind.add_column(name, justify="left" if not name else "right")
    for group in answer["groups"]:
        by_kind.add_row(group["name"], f"{group['parameters']:,}", f"{group['trainable']:,}")
    by_kind.add_row("sum", f"{answer['parameters']:,}", f"{answer['trainable']:,}", style="bold")
    console.print(by_kind)

    checkpointing = "with" if answer["gradient_checkpointing"] else "without"
    console.print(
        f"batch {answer['batch']} of {answer['length']} tokens, {answer['precision']}, "
        f"{checkpointing} gradient checkpointing, {answer['optimizer']}"
    )
    memory = Table()
    memory.add_column("")
    memory.add_column("GB", justify="right")
    names = {"head": "logits and head", "reference": "reference model"}
    for row in ROWS:
        if answer[f"{row}_bytes"]:
            memory.add_row(names.get(row, row), f"{answer[f'{row}_bytes'] / 1e9:.2f}")
    memory.add_row("sum", f"{answer['sum_bytes'] / 1e9:.2f}", style="bold", end_section=True)
    memory.add_row("most at one time", f"{answer['peak_bytes'] / 1e9:.2f}", style="bold")
    memory.add_row("GPU context, fragmentation", f"{answer['reserved_bytes'] / 1e9:.2f}")
    console.print(memory)
    if "fits" in answer:
        budget = answer["gpu_memory_bytes"] / 1e9
        verdict = "fits" if answer["fits"] else "does not fit"
        largest = answer["largest_batch"]
        console.print(
            f"{verdict} into {budget:.1f} GB; "
            + (f"the largest batch that fits is {largest}" if largest else "no batch does")
        )
