"""``trl-deepseek plugins``: every registered name and its origin; ``show`` tells of one.

``check`` runs the conformance suite on one plugin.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from trl_deepseek.cli.parser import add_plugin_options
from trl_deepseek.errors import ConfigError
from trl_deepseek.plugin_loading import load_registry
from trl_deepseek.registry import SINGULAR, Origin, Registry

COLUMNS = ("kind", "name", "plugin", "distribution", "version", "file")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        nargs="*",
        metavar="show NAME | check PLUGIN",
        help="show: tell of one item: formula, options with defaults, data, source. "
        "check: try whether a plugin (its name, file or module) keeps what runs rely on.",
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        help="check: a data file whose first row has the columns that the rewards need; "
        "without it they get '4' as their solution, answer and so on, or a value of the annotated "
        "type.",
    )
    add_plugin_options(parser)
    parser.add_argument("--json", action="store_true", help="Print a JSON list of objects.")


def run(args: argparse.Namespace) -> int:
    if args.action and (args.action[0] not in ("show", "check") or len(args.action) != 2):
        raise ConfigError(
            f"unexpected argument {args.action[0]!r}; say `trl-deepseek plugins show NAME` "
            "or `trl-deepseek plugins check PLUGIN`"
        )
    if args.action and args.action[0] == "check":
        return _check(args.action[1], args)
    registry = load_registry(args.plugins, args.block)
    if args.action:
        return _show(args.action[1], registry, args.json)
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


def _check(target: str, args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from trl_deepseek.plugin_kit import conformance, made_up

    values = dict(made_up.COLUMNS)
    if args.data is not None:
        from trl_deepseek import data

        values |= data.load(args.data, load_registry(), kind="prompts")[0]
    checks = conformance.check(target, args.plugins, args.block, values)
    failed = [check for check in checks if check.problem is not None]
    if args.json:
        print(json.dumps([asdict(check) for check in checks], indent=1, ensure_ascii=False))
        return 1 if failed else 0
    item = None
    for check in checks:
        if check.item != item:
            print(check.item)
            item = check.item
        print(f"  {'ok' if check.problem is None else 'NO'}  {check.claim}")
        for line in (check.problem or "").splitlines():
            print(f"      {line}")
    print(f"{len(checks) - len(failed)} of {len(checks)} checks hold")
    return 1 if failed else 0


def _show(name: str, registry: Registry, as_json: bool) -> int:
    from trl_deepseek.cli import plugin_page

    pages = [plugin_page.describe(entry) for entry in plugin_page.find(registry, name)]
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
