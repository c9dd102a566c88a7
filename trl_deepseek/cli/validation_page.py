"""What ``trl-deepseek validate`` found, as a page for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text


def show(answer: Sequence[dict[str, Any]]) -> None:
    """A page for people: what is wrong first, then what is lost or doubtful, then figures."""
    console = Console(highlight=False)
    styles = {"problems": "bold red", "warnings": "yellow", "unchecked": "bright_black"}
    for job in answer:
        name = f"{job['stage']} ({job['command']})" if job["stage"] else job["command"]
        _print(console, Text(name, style="bold"))
        for kind, style in styles.items():
            if job[kind]:
                words = {"unchecked": "not looked at"}.get(kind, kind)
                _print(console, Text(f"  {words}: {len(job[kind])}", style=style))
            for each in job[kind]:
                each = each if isinstance(each, dict) else {"place": None, "message": each}
                place = f"{each['place']}: " if each["place"] else ""
                message = each["message"].replace("\n", "\n    ")
                _print(console, Text.assemble("    ", (place, "bright_black"), message))
        if job["facts"]:
            figures = ", ".join(f"{key} {_figure(value)}" for key, value in job["facts"].items())
            _print(console, Text(f"  {figures}"))
    total = sum(len(job["problems"]) for job in answer)
    _print(console, Text(f"{total or 'no'} problem{'s' * (total != 1)}", style="bold"))


def _print(console: Console, line: Text) -> None:
    """One line as it is: a place that is broken over two lines cannot be clicked or searched."""
    console.print(line, soft_wrap=True)


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}"
