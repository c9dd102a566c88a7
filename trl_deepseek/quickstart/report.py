"""What the quickstart shows: a table in the terminal, a picture of the curves, sample answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from trl_deepseek.quickstart import Result

COLOURS = {
    "exact_match": "#1f77b4",
    "thinks": "#d62728",
    "made_to_think": "#9ecae1",
    "length": "#7f7f7f",
    "reward": "#2ca02c",
}
CURVES = {
    "exact_match": "exact match",
    "thinks": "answers that think",
    "made_to_think": "exact match, if made to think",
}


def table(result: Result) -> Table:
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


def write_picture(result: Result, path: Path) -> None:
    """Draw accuracy and thinking over both stages, and the GRPO reward with the answers' length."""
    from matplotlib.figure import Figure  # not pyplot: no display and no global state

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    accuracy, reward = figure.subplots(1, 2)

    ends = {
        stage: max(p.step for p in result.points if p.stage == stage) for stage in _stages(result)
    }
    ticks: list[tuple[float, str]] = []
    for offset, stage in enumerate(_stages(result)):
        points = [point for point in result.points if point.stage == stage]
        # Stages differ in steps; each gets the same width, so that the second can be seen.
        places = [offset + point.step / ends[stage] for point in points]
        for name, label in CURVES.items():
            accuracy.plot(
                places,
                [getattr(point, name) for point in points],
                color=COLOURS[name],
                marker="o",
                markersize=3,
                label=label if offset == 0 else None,
            )
        ticks += [(offset + part, f"{part * ends[stage]:.0f}") for part in (0.25, 0.5, 0.75)]
        accuracy.axvline(offset, color="black", linewidth=0.6, linestyle=":")
        accuracy.text(offset + 0.5, 1.04, stage.upper(), ha="center")
    accuracy.set(title="Held-out questions, greedy", ylim=(-0.03, 1.1), xlabel="step of the stage")
    accuracy.set_xticks([place for place, _ in ticks], [label for _, label in ticks])
    accuracy.legend(loc="center left", frameon=False)

    steps, values = zip(*result.rewards, strict=True)
    reward.plot(steps, values, color=COLOURS["reward"], label="mean reward (sampled answers)")
    reward.set(title="GRPO: only the right answer is rewarded", xlabel="step", ylim=(-0.03, 1.1))
    length = reward.twinx()
    points = [point for point in result.points if point.stage == "grpo"]
    length.plot(
        [point.step for point in points],
        [point.mean_length for point in points],
        color=COLOURS["length"],
        linestyle="--",
        label="answer length (greedy), tokens",
    )
    length.set(ylabel="tokens", ylim=(0, None))
    handles = reward.get_lines() + length.get_lines()
    reward.legend(
        handles, [handle.get_label() for handle in handles], loc="lower right", frameon=False
    )
    figure.savefig(path, dpi=130)


def _stages(result: Result) -> list[str]:
    return [stage.name for stage in result.stages]
