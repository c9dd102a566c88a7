"""What a run logged, as panels of curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

HELD_OUT = "eval_"
# Title and patterns of the metrics of each panel, in the order in which people look at them.
PANELS = (
    ("Loss", ("loss",)),
    ("Reward", ("reward",)),
    ("Each reward", ("rewards/*/mean",)),
    ("Length of completions, tokens", ("completions/mean_length", "completions/max_length")),
    ("Completions cut off", ("completions/clipped_ratio",)),
    ("Groups whose rewards are all alike", ("frac_reward_zero_std",)),
    ("Pairs ranked right", ("rewards/accuracies", "accuracy")),
    ("Implicit rewards", ("rewards/chosen", "rewards/rejected", "rewards/margins")),
    ("Scores of a pair", ("min_reward", "mean_reward", "max_reward", "margin")),
    ("Token accuracy", ("mean_token_accuracy",)),
    ("Entropy, nats", ("entropy",)),
    ("KL from the reference, nats", ("kl",)),
    ("Gradient norm", ("grad_norm",)),
    ("Learning rate", ("learning_rate",)),
)
SUMS = "train_runtime"  # is in the record at the end of a run: one number each, no curve
NOT_DRAWN = ("epoch", "step", "*runtime", "*_per_second")
# Of a curve; more are more than a screen has columns, and would fill the page.
POINTS = 1500
TOP = 4  # figures at the head of a run
HEADLINES = (
    *("reward", "rewards/accuracies", "accuracy", "loss", "completions/mean_length"),
    *("mean_token_accuracy", "kl", "entropy", "grad_norm"),
)


@dataclass(frozen=True)
class Curve:
    """One metric over the steps.

    Attributes:
        name: As it was logged.
        steps: Optimizer steps, rising.
        values: None where it was not finite.
        logged: Points before they were thinned.
    """

    name: str
    steps: list[int]
    values: list[float | None]
    logged: int

    @property
    def finite(self) -> list[float]:
        """The values that are numbers."""
        return [value for value in self.values if value is not None]


@dataclass(frozen=True)
class Panel:
    """Curves that are drawn together."""

    title: str
    curves: list[Curve]


def panels(logs: Sequence[Mapping[str, Any]]) -> tuple[list[Panel], list[Panel]]:
    """The panels that everyone looks at, and one for each other metric that was logged."""
    curves = {name: curve for name, curve in _curves(logs).items() if curve.finite}
    first, taken = list[Panel](), set[str]()
    for title, patterns in PANELS:
        chosen = [
            curve
            for pattern in patterns
            for name, curve in curves.items()
            if fnmatchcase(name.removeprefix(HELD_OUT), pattern)
        ]
        if chosen:
            first.append(Panel(title, chosen))
            taken |= {curve.name for curve in chosen}
    # What only an evaluation measures: the metrics of eval_metrics, on scales of their own.
    measured = [
        name
        for name in curves
        if name.startswith(HELD_OUT)
        and name not in taken
        and name.removeprefix(HELD_OUT) not in curves
    ]
    first[2:2] = [
        Panel(f"Metric {name.removeprefix(HELD_OUT)}, held-out", [curves[name]])
        for name in measured
    ]
    taken |= set(measured)
    rest = [Panel(name, [curve]) for name, curve in sorted(curves.items()) if name not in taken]
    return first, rest


def headlines(logs: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The few curves that say most about a run."""
    curves = _curves(logs)
    found = [curves[name] for name in HEADLINES if name in curves and curves[name].finite]
    return found[:TOP]


def _curves(logs: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    points: dict[str, dict[int, float | None]] = {}
    for record in logs:
        if SUMS in record:
            continue
        for name, value in record.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if not any(fnmatchcase(name, pattern) for pattern in NOT_DRAWN):
                # a step that was made again after a resume counts as it was made last
                points.setdefault(name, {})[record["step"]] = _rounded(value)
    return {name: _thinned(name, sorted(found.items())) for name, found in points.items()}


def _thinned(name: str, points: list[tuple[int, float | None]]) -> Curve:
    """At most ``POINTS`` points: of each stretch the lowest and the highest, so that peaks stay."""
    kept = points
    if len(points) > POINTS:
        stretch = math.ceil(2 * len(points) / POINTS)
        kept = []
        for start in range(0, len(points), stretch):
            part = points[start : start + stretch]
            known = [point for point in part if point[1] is not None] or part[:1]
            ends = {min(known, key=_value), max(known, key=_value)}
            kept += sorted(ends)
    return Curve(name, [step for step, _ in kept], [value for _, value in kept], len(points))


def _value(point: tuple[int, float | None]) -> float:
    return 0.0 if point[1] is None else point[1]


def _rounded(value: float) -> float | None:
    """Six digits, which no eye tells from all of them; None for what is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
