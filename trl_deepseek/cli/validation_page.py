"""What ``trl-deepseek validate`` found, as a page for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def show(answer: Sequence[dict[str, Any]]) -> None:
    """A page for people: what is wrong first, then what is lost or doubtful, then figures."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    styles = {"problems": "bold red", "warnings": "yellow", "unchecked": "bright_black"}
    for job in answer:
        name = f"{job['stage']} ({job['command']})" if job["stage"] else job["command"]
        console.print(Text(name, style="bold"))
        for kind, style in styles.items():
            table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 2))
            for each in job[kind]:
                each = each if isinstance(each, dict) else {"place": None, "message": each}
                message = Text(each["message"])
                table.add_row(Text(each["place"] or "", style="bright_black"), message)
            if job[kind]:
                words = {"unchecked": "not looked at"}
                console.print(Text(f"  {words.get(kind, kind)}: {len(job[kind])}", style=style))
                console.print(table)
        if job["facts"]:
            figures = ", ".join(f"{key} {_figure(value)}" for key, value in job["facts"].items())
            console.print(Text(f"  {figures}"), soft_wrap=True)
    total = sum(len(job["problems"]) for job in answer)
    console.print(Text(f"{total or 'no'} problem{'s' * (total != 1)}", style="bold"))


def _figure(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}"
