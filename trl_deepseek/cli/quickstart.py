"""``trl-deepseek quickstart``: the main job, with progress, a table and a picture."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trl_deepseek import stopping
from trl_deepseek.quickstart import Progress, Quickstart


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="Of the model, the data and sampling.")
    parser.add_argument(
        "--output_dir",
        type=Path,
        help="New or empty folder; a new one under runs/ when not given.",
    )
    parser.add_argument(
        "--engine",
        choices=("transformers", "vllm"),
        default="transformers",
        help="What generates in GRPO.",
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON object at the end.")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from trl_deepseek.cli.output import hide_progress_bars, machine_readable
    from trl_deepseek.quickstart.report import answers, gain, table

    with progress_bar() as progress, machine_readable(args.json):
        hide_progress_bars()  # the job has its own
        job = Quickstart(args.output_dir or _new_folder(), args.seed, progress, args.engine)
        try:
            result = job.run()
        except KeyboardInterrupt as interrupt:
            raise stopping.explained(interrupt, _saved(job)) from None
    if args.json:
        print(json.dumps(result.as_json()))
        return 0
    console = Console()
    console.print(table(result))
    console.print(gain(result))
    console.print(answers(result))
    folder = result.output_dir
    console.print(f"{result.seconds:.0f} s in all; models, curves.png and report.html in {folder}")
    return 0


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar per stage on a terminal; elsewhere a line every tenth of a stage. Both on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:

        def report(stage: str, step: int, steps: int, remark: str) -> None:
            if step % max(1, steps // 10) == 0:
                print(f"{stage}: step {step} of {steps}, {remark}", file=sys.stderr, flush=True)

        yield report
        return
    columns = ("{task.description:5}", BarColumn(), "{task.completed}/{task.total}")
    with Progress(
        *columns, TimeElapsedColumn(), TextColumn("{task.fields[remark]}"), console=console
    ) as bars:
        tasks = {}

        def advance(stage: str, step: int, steps: int, remark: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=steps, remark="")
            bars.update(tasks[stage], completed=step, remark=remark or tasks_remark(stage))

        def tasks_remark(stage: str) -> str:
            return str(bars.tasks[tasks[stage]].fields["remark"])

        yield advance


def _new_folder() -> Path:
    """``runs/quickstart``, or the first ``runs/quickstart-N`` that does not exist."""
    first = folder = Path("runs") / "quickstart"
    number = 2
    while folder.exists():
        folder = first.with_name(f"quickstart-{number}")
        number += 1
    return folder


def _saved(job: Quickstart) -> str:
    found = [*job.saved, *sorted(job.output_dir.glob("*/checkpoint-*"))]
    saved = f"saved so far: {', '.join(map(str, found))}" if found else "nothing was saved"
    return f"{saved}; `trl-deepseek quickstart` begins anew, in another folder"
