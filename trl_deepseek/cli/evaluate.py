"""``trl-deepseek evaluate``: models side by side, with intervals and paired differences."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from trl_deepseek.cli.output import hide_progress_bars, machine_readable
from trl_deepseek.cli.parser import add_options_of
from trl_deepseek.jobs.places import naming_those_of
from trl_deepseek.plugin_loading import load_registry

if TYPE_CHECKING:
    from trl_deepseek.evaluation import Difference, Evaluation
    from trl_deepseek.types import Estimate

VERDICTS = {True: "[green]better[/]", False: "[red]worse[/]", None: "[dim]not clear[/]"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from trl_deepseek.jobs.evaluate_options import EvaluateOptions

    add_options_of(parser, EvaluateOptions)


def run(args: argparse.Namespace) -> int:
    from trl_deepseek.jobs import evaluate
    from trl_deepseek.jobs.evaluate_options import EvaluateOptions
    from trl_deepseek.jobs.options import build_dataclasses

    if not sys.stderr.isatty():
        hide_progress_bars()
    with machine_readable(args.json):
        with naming_those_of(args):
            (options,) = build_dataclasses(args, [EvaluateOptions])
            job = evaluate.check(options, load_registry(args.plugins, args.block))
        found = evaluate.run(job, show_progress=sys.stderr.isatty())
    if args.json:
        print(json.dumps(found.as_json()))
        return 0
    _show(found)
    if options.output_dir is not None:
        print(f"saved in {options.output_dir}")
    return 0


def _show(found: Evaluation) -> None:
    """The models side by side, and what each later one has more than each earlier one."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    view = Table(title="value, 95 % interval, number of rows", title_justify="left")
    view.add_column("metric")
    estimates = {name: found.estimates(name) for name in found.measured}
    for name in estimates:
        view.add_column(name, justify="right", overflow="fold")
    for label in dict.fromkeys(label for each in estimates.values() for label in each):
        view.add_row(label, *(_cell(each.get(label)) for each in estimates.values()))
    console.print(view)
    by_pair: dict[tuple[str, str], list[Difference]] = {}
    for each in found.differences():
        by_pair.setdefault((each.a, each.b), []).append(each)
    for (a, b), differences in by_pair.items():
        view = Table(title=f"{b} against {a}, on the same rows", title_justify="left", min_width=60)
        view.add_column("metric")
        view.add_column("difference", justify="right")
        view.add_column("it is")
        for each in differences:
            view.add_row(each.metric, _cell(each.estimate, signed=True), VERDICTS[each.better])
        console.print(view)


def _cell(estimate: Estimate | None, *, signed: bool = False) -> str:
    if estimate is None:
        return "-"
    sign = "+" if signed else ""
    interval = ""
    if estimate.low is not None and estimate.high is not None:
        interval = f" \\[{estimate.low:{sign}.3g}, {estimate.high:{sign}.3g}]"
    return f"{estimate.value:{sign}.3g}{interval} ({estimate.count})"
