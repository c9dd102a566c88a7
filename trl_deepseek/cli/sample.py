"""``trl-deepseek sample``: completions of a model, scored by rewards, as rows for training."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from trl_deepseek.cli.output import hide_progress_bars, machine_readable
from trl_deepseek.cli.parser import add_options_of
from trl_deepseek.jobs.places import naming_those_of
from trl_deepseek.plugin_loading import load_registry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from trl_deepseek.jobs.sample_options import SampleOptions

    add_options_of(parser, SampleOptions)


def run(args: argparse.Namespace) -> int:
    from trl_deepseek.jobs import sample
    from trl_deepseek.jobs.options import build_dataclasses

    if not sys.stderr.isatty():
        hide_progress_bars()
    with machine_readable(args.json):
        with naming_those_of(args):
            (options,) = build_dataclasses(args, [sample.SampleOptions])
            job = sample.check(options, load_registry(args.plugins, args.block))
        summary = sample.run(job, show_progress=sys.stderr.isatty())
    print(json.dumps(summary, ensure_ascii=False) if args.json else _said(summary))
    return 0


def _said(summary: dict[str, Any]) -> str:
    """The summary for people."""
    cut_off = summary["cut_off"]
    lines = [
        f"{summary['completions']} completions of {summary['prompts']} prompts"
        + (f", {cut_off} of them cut off at max_new_tokens" if cut_off else "")
    ]
    for reward in summary["rewards"]:
        mean = "no score" if reward["mean"] is None else f"mean {reward['mean']:.3g}"
        counts = [f"{reward[what]} {what}" for what in ("abstained", "failed") if reward[what]]
        lines.append(f"reward {reward['name']}: {', '.join([mean, *counts])}")
    lines += [f"passed over: {count} {why}" for why, count in summary["passed_over"].items()]
    if summary["prompts_without_rows"]:
        lines.append(f"{summary['prompts_without_rows']} prompts give no row")
    if not summary["rows"]:
        lines.append("no row was made: the file is empty")
    return "\n".join([*lines, f"{summary['rows']} rows saved in {summary['output_file']}"])
