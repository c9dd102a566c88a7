"""``trl-deepseek plugins``: every registered name and its origin; ``show`` tells of one."""

from __future__ import annotations

import argparse
import json
from typing import Any

from trl_deepseek.cli.parser import add_plugin_options
from trl_deepseek.errors import ConfigError
from trl_deepseek.registry import SINGULAR, Origin, Registry, load_registry

COLUMNS = ("kind", "name", "plugin", "distribution", "version", "file")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "show",
        nargs="*",
        metavar="show NAME",
        help="Tell of one item instead: formula, options with defaults, data, source.",
    )
    add_plugin_options(parser)
    parser.add_argument("--json", action="store_true", help="Print a JSON list of objects.")


def run(args: argparse.Namespace) -> int:
    registry = load_registry(args.plugins, args.block)
    if args.show:
        return _show(args.show, registry, args.json)
    rows = table(registry)
    if args.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    from rich.console import Console
    from rich.table import Table

    view = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        view.add_column(column, overflow="fold")
    for row in rows:
        cells = [str(row[column] or "") for column in COLUMNS]
        view.add_row(*cells, style={"broken": "red", "blocked": "dim"}.get(row["kind"]))
    console = Console()
    if not console.is_terminal:  # a pipe has no width to fold a path into
        console.width = 240
    console.print(view)
    return 0


def _show(words: list[str], registry: Registry, as_json: bool) -> int:
    from trl_deepseek.cli import plugin_page

    if words[0] != "show" or len(words) != 2:
        raise ConfigError(f"unexpected argument {words[0]!r}; say `trl-deepseek plugins show NAME`")
    pages = [plugin_page.describe(entry) for entry in plugin_page.find(registry, words[1])]
    if as_json:
        print(json.dumps(pages, indent=1, ensure_ascii=False, default=str))
    else:
        print("\n\n".join("\n".join(plugin_page.lines(page)) for page in pages))
    return 0


def table(registry: Registry) -> list[dict[str, Any]]:
    """A row per item, then per broken plugin (``name`` is its cause) and per blocked one."""
    rows = [_row(SINGULAR[entry.kind], entry.name, entry.origin) for entry in registry.entries()]
    rows += [_row("broken", broken.cause, broken.origin) for broken in registry.broken]
    rows += [_row("blocked", None, origin) for origin in registry.blocked]
    return rows


def _row(kind: str, name: str | None, origin: Origin) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "plugin": origin.plugin,
        "distribution": origin.distribution,
        "version": origin.version,
        "file": origin.file,
    }
