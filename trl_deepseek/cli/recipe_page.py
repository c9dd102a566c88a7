"""What ``trl-deepseek run`` shows at its end: the stages, and what evaluations have found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl_deepseek.jobs.progress import Progress
from trl_deepseek.jobs.recipe import Recipe


def show(recipe: Recipe, progress: Progress) -> None:
    """A table of the stages, then one or two for each evaluation."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=recipe.file)
    for heading in ("stage", "command", "seconds", "train loss", "saved in"):
        numbers = heading in ("seconds", "train loss")
        table.add_column(heading, justify="right" if numbers else "left")
    for stage in recipe.stages:
        noted = progress.stages[stage.name]
        loss = ((noted.get("result") or {}).get("metrics") or {}).get("train_loss")
        table.add_row(
            stage.name,
            stage.command,
            f"{noted['seconds']:.0f}",
            "" if loss is None else f"{loss:.3f}",
            stage.output_dir,
        )
    console.print(table)
    for stage in recipe.stages:
        if stage.kind.makes == "figures":
            for each in _figures(stage.name, progress.stages[stage.name]["result"], recipe):
                console.print(each)


def _figures(name: str, result: Mapping[str, Any], recipe: Recipe) -> list[Any]:
    """The models side by side, and what the last has more than each other one."""
    from rich.table import Table

    stages = {stage.output_dir: stage.name for stage in recipe.stages}
    models = {each["name"]: each["metrics"] for each in result["models"]}
    values = Table(title=f"{name}: value and 95 % interval", title_justify="left")
    values.add_column("metric")
    for model in models:
        values.add_column(stages.get(model, model), justify="right")
    metrics = list(dict.fromkeys(metric for found in models.values() for metric in found))
    for metric in metrics:
        values.add_row(_short(metric), *(_cell(found.get(metric)) for found in models.values()))
    last = str(next(reversed(models)))
    gains = Table(title=f"what {stages.get(last, last)} has more", title_justify="left")
    others = [model for model in models if model != last]
    for heading in ("metric", *(f"than {stages.get(model, model)}" for model in others)):
        gains.add_column(heading, justify="left" if heading == "metric" else "right")
    pairs = {(d["metric"], d["a"]): d for d in result["differences"] if d["b"] == last}
    for metric in metrics:
        cells = (_cell(pairs.get((metric, model)), signed=True) for model in others)
        gains.add_row(_short(metric), *cells)
    return [values, gains] if others else [values]


def _short(metric: str) -> str:
    return f"model:{Path(metric.removeprefix('model:')).name}" if "/" in metric else metric


def _cell(found: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    if found is None:
        return "-"
    sign, interval = "+" if signed else "", ""
    if found.get("low") is not None:
        interval = f" \\[{found['low']:{sign}.3g}, {found['high']:{sign}.3g}]"
    return f"{found['value']:{sign}.3g}{interval}"
