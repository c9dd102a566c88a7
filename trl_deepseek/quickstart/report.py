"""What the quickstart shows: a table, sample answers, a picture of the curves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import RenderableType

    from trl_deepseek.quickstart import Result

CHANCE = 0.2  # one of five cups
COLOURS = {
    "exact_match": "#1f77b4",
    "thinks": "#d62728",
    "made_to_think": "#9ecae1",
    "mean_length": "#7f7f7f",
}
LABELS = {**COLOURS, "made_to_think": "#5a9fcf", "": "black"}  # as text, the palest is not read
CURVES = {
    "exact_match": "right",
    "thinks": "thinks first",
    "made_to_think": "right, if made to think",
}
STAGES = {"sft": "SFT: imitates demonstrations", "grpo": "GRPO: rewarded for the right answer"}
SHOWN = 4  # questions, with their answers
APART = 0.08  # of the axis' height, between two labels


def table(result: Result) -> RenderableType:
    """One row per stage."""
    from rich.table import Table

    view = Table(title="Held-out questions, answered greedily", title_justify="left")
    view.add_column("stage")
    for column in ("exact match", "thinks", "mean length", "reward", "seconds"):
        view.add_column(column, justify="right")
    for stage in result.stages:
        view.add_row(
            stage.name,
            f"{stage.exact_match:.1%}",
            f"{stage.thinks:.1%}",
            f"{stage.mean_length:.1f} tokens",
            "-" if stage.reward is None else f"{stage.reward:.2f}",
            f"{stage.seconds:.0f}",
        )
    return view


def gain(result: Result) -> str:
    """What the last stage gained on the first, with its 95 % interval over the same questions."""
    found = next(d for d in result.evaluation.differences() if d.metric == "exact_match")
    points = [f"{100 * (end or 0.0):+.0f}" for end in (found.estimate.low, found.estimate.high)]
    return (
        f"{found.b} less {found.a}: {100 * found.estimate.value:+.0f} points of exact match "
        f"(95 % interval {points[0]} to {points[1]})"
    )


def answers(result: Result) -> RenderableType:
    """Some held-out questions answered after each stage, right in green and wrong in red."""
    from rich.table import Table
    from rich.text import Text

    view = Table(title="Where is the ball?", title_justify="left")
    view.add_column("cup, then swaps")
    rows: dict[str, list[Text]] = {}
    for stage in result.stages:
        view.add_column(f"after {stage.name}")
        own = [each for each in result.evaluation.samples if each["model"] == stage.name]
        for sample in own[:SHOWN]:
            question = json.loads(sample["prompt"])[-1]["content"]
            style = "green" if sample["metrics/exact_match"] == 1.0 else "red"
            rows.setdefault(question, []).append(Text(sample["completion"], style=style))
    for question, cells in rows.items():
        view.add_row(question, *cells)
    return view


def picture(result: Result) -> Figure:
    """What share of held-out answers is right and thinks, and their length, over both stages.

    Stages differ in steps; each gets the same width, so that the second can be seen. Each curve is
    named at its end, beside the axes.
    """
    from matplotlib.figure import Figure  # not pyplot: no display and no global state

    figure = Figure(figsize=(9.5, 5.6), layout="constrained")
    shares, length = figure.subplots(2, 1, sharex=True, height_ratios=(3.2, 1))
    names = [stage.name for stage in result.stages]
    points = {name: [p for p in result.points if p.stage == name] for name in names}
    ends = {name: max(point.step for point in points[name]) for name in names}
    beside = len(names) + 0.02

    def draw(axes: Axes, curve: str, width: float = 2.0) -> None:
        for offset, name in enumerate(names):
            places = [offset + point.step / ends[name] for point in points[name]]
            values = [getattr(point, curve) for point in points[name]]
            axes.plot(places, values, color=COLOURS[curve], linewidth=width)

    for curve in reversed(CURVES):  # the first, which matters most, lies on top
        draw(shares, curve, 3.0 if curve == "exact_match" else 2.0)
    shares.axhline(CHANCE, color="black", linewidth=0.8, linestyle=(0, (4, 4)))
    last = {curve: float(getattr(result.points[-1], curve)) for curve in CURVES}
    for curve, height in _spread({**last, "": CHANCE}).items():
        text = f"{CURVES[curve]}: {last[curve]:.0%}" if curve else f"a guess: {CHANCE:.0%}"
        weight = "bold" if curve == "exact_match" else "normal"
        shares.text(beside, height, text, color=LABELS[curve], weight=weight, va="center")
    shares.set(ylim=(-0.03, 1.05), xlim=(0, len(names)), ylabel="share of held-out answers")
    shares.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")

    draw(length, "mean_length")
    tokens = result.points[-1].mean_length
    length.text(beside, tokens, "answer length", va="center", color=LABELS["mean_length"])
    length.set(ylim=(0, None), ylabel="tokens", xlabel="step of the stage")
    ticks = {
        offset + part: f"{part * ends[name]:.0f}"
        for offset, name in enumerate(names)
        for part in (0.0, 0.25, 0.5, 0.75)
    }
    length.set_xticks(list(ticks), list(ticks.values()))
    for axes in (shares, length):
        axes.axvspan(1, len(names), color="#f3f6fa", zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    for offset, name in enumerate(names):
        shares.text(offset + 0.5, 1.09, STAGES[name], ha="center", weight="bold")
    return figure


def _spread(heights: dict[str, float]) -> dict[str, float]:
    """Places for labels as near to these as they can be without lying on each other."""
    placed: dict[str, float] = {}
    top = 1.02
    for name in sorted(heights, key=lambda name: -heights[name]):
        placed[name] = min(top, heights[name])
        top = placed[name] - APART
    return placed
