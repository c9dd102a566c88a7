"""Show what rewards made of completions, as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 30  # characters of the longest bar


def show(report: Mapping[str, Any]) -> None:
    """Print the object that ``--json`` would print."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, soft_wrap=True)
    source = report.get("data") or report.get("run")
    console.print(f"{report['samples']} completions of {source}\n")
    for reward in report["rewards"]:
        _show_reward(console, reward)
    _show_correlations(console, report["correlations"])
    if "advantages" in report:
        _show_advantages(console, report["advantages"])


def _show_reward(console: Console, reward: Mapping[str, Any]) -> None:
    console.print(reward["name"], style="bold")
    facts = [f"mean {_number(reward['mean'])}", f"std {_number(reward['std'])}"]
    facts += [f"{reward['abstained']} abstained", f"{reward['failed']} failed"]
    if reward["p99_ms"]:
        facts.append(f"per sample {reward['p50_ms']:.2f} ms (p50), {reward['p99_ms']:.2f} ms (p99)")
    console.print("  " + " · ".join(facts))
    if reward["groups"]:
        console.print(
            f"  {reward['zero_variance_groups']} of {reward['groups']} groups "
            f"({reward['zero_variance_share']:.0%}) score all alike: they would teach nothing"
        )
    _show_histogram(console, reward["histogram"])
    failure = reward["first_failure"]
    if failure is not None:
        console.print(
            f"  first failure, sample {failure['sample']}: {failure['message']}", style="red"
        )
        for line in failure["traceback"].splitlines():
            console.print("    " + line, style="dim")
    console.print()


def _show_histogram(console: Console, bins: Sequence[Mapping[str, float]]) -> None:
    most = max((part["count"] for part in bins), default=0)
    for place, part in enumerate(bins):
        single = part["from"] == part["to"]
        closing = "]" if place == len(bins) - 1 else ")"
        label = _number(part["from"])
        label = label if single else f"[{label}, {_number(part['to'])}{closing}"
        bar = "█" * max(1 if part["count"] else 0, round(WIDTH * part["count"] / most))
        console.print(f"  {label:>18} {bar:{WIDTH}} {part['count']:.0f}")


def _show_correlations(console: Console, correlations: Sequence[Mapping[str, Any]]) -> None:
    if not correlations:
        return
    console.print("correlation", style="bold")
    for pair in correlations:
        left, right = pair["rewards"]
        found = pair["correlation"]
        said = "one of them does not vary" if found is None else f"{found:+.2f}"
        console.print(f"  {left} ~ {right}: {said}")
    console.print()


def _show_advantages(console: Console, advantages: Mapping[str, Any]) -> None:
    found = advantages["correlation"]
    console.print("advantages, against those of the run", style="bold")
    console.print(
        f"  correlation {'unknown' if found is None else f'{found:+.2f}'}; "
        f"{advantages['sign_changes']} of {advantages['compared']} would change sign"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
