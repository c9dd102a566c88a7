"""A small table of what a run generates, shown now and then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trl_deepseek.chat.reasoning import text

PROMPT, COMPLETION = 60, 160  # characters shown


def show(
    step: int,
    prompts: Sequence[Any],
    completions: Sequence[Any],
    scores: Mapping[str, Sequence[float]],
    advantages: Sequence[float],
) -> None:
    """Print the completions with the highest and the lowest advantage of a batch to stderr."""
    from rich.console import Console
    from rich.table import Table

    order = sorted(range(len(prompts)), key=lambda i: advantages[i])
    table = Table()
    for heading in ("prompt", "completion", *scores, "advantage"):
        numeric = heading not in ("prompt", "completion")
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold")
    for i in dict.fromkeys((order[-1], order[0])):
        numbers = [*(values[i] for values in scores.values()), advantages[i]]
        prompt = _text(prompts[i])
        table.add_row(
            f"…{prompt[-PROMPT:]}" if len(prompt) > PROMPT else prompt,
            _cut(_text(completions[i])),
            *("-" if number != number else f"{number:.3g}" for number in numbers),
        )
    console = Console(stderr=True, markup=False)
    console.print(f"completions at step {step}: the best and the worst", table, sep="\n")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value and value[-1].get("role") == "assistant":
        return text(value)
    content = value[-1].get("content") if value else ""
    return content if isinstance(content, str) else str(content)


def _cut(value: str) -> str:
    return value if len(value) <= COMPLETION else f"{value[: COMPLETION - 1]}…"
