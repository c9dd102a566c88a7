"""``trl-deepseek presets``: settings of papers by name; ``show`` gives every value its source."""

from __future__ import annotations

import argparse
import json
from typing import Any

from trl_deepseek.cli.parser import add_plugin_options
from trl_deepseek.errors import ConfigError
from trl_deepseek.plugin_loading import load_registry
from trl_deepseek.registry import Entry


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="*",
        metavar="show NAME",
        help="show: every value of one preset with its source, and what it leaves to you.",
    )
    add_plugin_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="Print a JSON list; of one preset, an object."
    )


def run(args: argparse.Namespace) -> int:
    if args.action and (args.action[0] != "show" or len(args.action) != 2):
        raise ConfigError(
            f"unexpected argument {args.action[0]!r}; say `trl-deepseek presets show NAME`"
        )
    registry = load_registry(args.plugins, args.block)
    entries = {entry.name: entry for entry in registry.entries("presets")}
    if args.action:
        name = args.action[1]
        _ = registry.presets[name]  # or it says which there are
        page = describe(entries[name])
        print(_as_json(page)) if args.json else _show(page)
        return 0
    pages = [describe(entry) for entry in entries.values()]
    print(_as_json(pages)) if args.json else _list(pages)
    return 0


def describe(entry: Entry) -> dict[str, Any]:
    """A preset as plain data, the same for the screen and for ``--json``."""
    preset = entry.item
    return {
        "name": entry.name,
        "command": preset.command,
        "description": preset.description,
        "values": dict(preset.values),
        "model": dict(preset.model),
        "sources": dict(preset.sources),
        "notes": list(preset.notes),
        "plugin": entry.origin.plugin,
        "distribution": entry.origin.distribution,
        "version": entry.origin.version,
    }


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, default=str)


def _list(pages: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "command", "description"):
        table.add_column(column, overflow="fold", no_wrap=column != "description")
    for page in sorted(pages, key=lambda page: (page["command"], page["name"])):
        table.add_row(page["name"], page["command"], page["description"])
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)
    console.print("\n`trl-deepseek presets show NAME` gives the source of every number.")


def _show(page: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(Text(page["name"], style="bold"), Text(page["description"]))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("option", "value", "source"):
        table.add_column(column, overflow="fold", no_wrap=column == "option")
    for option, value in {**page["values"], **page["model"]}.items():
        table.add_row(Text(option), Text(_word(value)), Text(page["sources"][option]))
    console.print(table)
    for note in page["notes"]:
        console.print(Text(f"- {note}"))
    console.print(
        Text(f"\ntrl-deepseek {page['command']} --preset {page['name']} ...", style="bold"),
        Text("flags and YAML win over it"),
    )
    config = {"sft": "SFT", "preference": "DPO", "reward": "Reward", "grpo": "GRPO"}
    uses = f"{config.get(page['command'], '...')}Config(**preset.values, output_dir=...)"
    if page["model"]:
        uses += ", trl.ModelConfig(**preset.model)"
    console.print(
        Text(f"Python: preset = load_registry().presets[{page['name']!r}]; {uses}"),
        soft_wrap=True,
    )


def _word(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return json.dumps(value) if isinstance(value, (bool, dict)) else f"{value}"
