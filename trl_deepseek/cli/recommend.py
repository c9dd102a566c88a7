"""``trl-deepseek recommend``: look at data, name the training for it and the command to paste."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from typing import Any

from trl_deepseek.cli.output import hide_progress_bars, machine_readable
from trl_deepseek.cli.parser import add_plugin_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset_name",
        help="Embedded dataset, .jsonl/.json/.csv/.parquet file, folder or hub id.",
    )
    parser.add_argument("--dataset_config", help="Configuration of a hub dataset.")
    parser.add_argument("--dataset_kwargs", help="Options of an embedded dataset, as JSON.")
    parser.add_argument("--dataset_train_split", default="train", help="Split to look at.")
    parser.add_argument(
        "--model_name_or_path",
        help="Model to train: lengths are counted with its tokenizer too; no weights are loaded.",
    )
    parser.add_argument("--output_dir", default="out", help="Of the command that is printed.")
    add_plugin_options(parser)
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")


def run(args: argparse.Namespace) -> int:
    from dataclasses import fields

    from trl_deepseek.jobs import recommend

    options = recommend.Options(
        **{f.name: getattr(args, f.name) for f in fields(recommend.Options)}
    )
    with machine_readable(True):
        if not sys.stderr.isatty():
            hide_progress_bars()
        answer = recommend.run(recommend.check(options), _progress)
    if args.json:
        print(json.dumps(answer, ensure_ascii=False))
    else:
        show(answer)
    return 0


def _progress(rows: Iterable[Any]) -> Iterable[Any]:
    from tqdm.auto import tqdm

    return tqdm(rows, desc="Reading rows", disable=not sys.stderr.isatty(), leave=False)


def show(answer: dict[str, Any]) -> None:
    """What the data is, what to do with it, why, and the command on a line of its own."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for name, value in figures(answer["data"]):
        console.print(Text(f"{name:11}", style="bright_black") + Text(value))
    console.print()
    for name in ("method", "loss", "preset"):
        console.print(Text(f"{name:11}", style="bold") + Text(answer[name]))
    if answer["rewards"]:
        console.print(Text(f"{'rewards':11}", style="bold") + Text(" ".join(answer["rewards"])))
    console.print()
    for reason in answer["reasons"]:
        console.print(Text(f"- {reason}"))
    console.print()
    print(answer["command"])  # whole, to be pasted


def figures(found: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """The figures as lines; what is not there is left out."""
    looked = found["looked_at"]
    more = "" if looked == found["rows"] else f", of which the first {looked:,} were read"
    repeated = f", {found['repeated']:,} repeated" if found["repeated"] else ""
    yield "rows", f"{found['rows']:,}{more}{repeated}"
    yield "columns", ", ".join(found["columns"])
    for unit in ("characters", "tokens"):
        for part, sizes in (found[unit] or {}).items():
            yield part, f"{sizes['median']:,} {unit} in the middle, {sizes['longest']:,} at most"
    for name in ("reasoning", "several_turns", "tools"):
        if found[name]:
            yield name.replace("_", " "), f"{found[name]:.0%} of the rows"
    if found["desirable"] is not None:
        yield "desirable", f"{found['desirable']:.0%} of the rows"
    if found["languages"]:
        shares = (f"{name} {share:.0%}" for name, share in found["languages"].items())
        yield "languages", ", ".join(shares)
