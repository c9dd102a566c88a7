"""What an evaluation found: per prompt, per model with its interval, and between models."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl_deepseek.evaluation import intervals
from trl_deepseek.evaluation.intervals import Aggregate, Unit
from trl_deepseek.types import Estimate

SAMPLES, VALUES, SUMMARY = "samples.parquet", "values.parquet", "evaluation.json"


@dataclass(frozen=True)
class Measured:
    """One metric of one model.

    Attributes:
        name: Of the metric, as the user wrote it.
        units: For each prompt, or row, its value by part (``""`` for the one number of a metric
            that has one), or what is added up; None where the metric abstained.
        aggregate: Makes the numbers from sums over units; None for the mean.
        fixed: Numbers that were not made of rows; empty where they were.
        counts: Failures, timeouts and abstentions of a reward, by name.
        higher_is_better: Whether a larger number is a better model.
    """

    name: str
    units: Sequence[Unit] = ()
    aggregate: Aggregate | None = None
    fixed: Mapping[str, Estimate] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    higher_is_better: bool = True

    @property
    def abstained(self) -> int:
        """Units without a value."""
        return sum(unit is None for unit in self.units)

    def label(self, part: str) -> str:
        """What a number of it is called."""
        return f"{self.name}/{part}" if part else self.name

    def numbers(self) -> dict[str, float]:
        """Its numbers by label, without their intervals; none where every unit abstained."""
        parts = intervals.parts_of(self.units, self.aggregate)
        found = {p: intervals.number(self.units, p, self.aggregate) for p in parts}
        found |= {part: estimate.value for part, estimate in self.fixed.items()}
        return {self.label(part): value for part, value in found.items()}

    def estimates(self, seed: int) -> dict[str, Estimate]:
        """Its numbers by label; none where every unit abstained."""
        parts = intervals.parts_of(self.units, self.aggregate)
        found = {p: intervals.estimate(self.units, p, self.aggregate, seed) for p in parts}
        found |= self.fixed
        return {self.label(part): e for part, e in found.items() if e is not None}


@dataclass(frozen=True)
class Difference:
    """What model ``b`` has more than model ``a`` over the same rows.

    Attributes:
        metric: The label of the number.
        a: Name of a model.
        b: Name of another.
        estimate: Of ``b`` less ``a``.
        better: Whether ``b`` is better (True), ``a`` is (False), or the interval holds 0 (None).
    """

    metric: str
    a: str
    b: str
    estimate: Estimate
    better: bool | None


@dataclass(frozen=True)
class Evaluation:
    """Models side by side.

    Attributes:
        measured: What each model's metrics found, by the model's name, in the order given.
        samples: One row per answer: model, row, sample, prompt, completion, tokens, finished, and
            ``metrics/NAME`` of each metric that gives an answer a value.
        seed: Of the intervals.
    """

    measured: Mapping[str, Sequence[Measured]]
    samples: Sequence[Mapping[str, Any]] = ()
    seed: int = 0

    def estimates(self, model: str | None = None) -> dict[str, Estimate]:
        """The numbers of a model by label; of the only one, or the first, where none is named."""
        name = next(iter(self.measured)) if model is None else model
        return {
            label: estimate
            for measured in self.measured[name]
            for label, estimate in measured.estimates(self.seed).items()
        }

    def differences(self) -> list[Difference]:
        """Each later model against each earlier one, number by number."""
        return [
            found
            for a, b in itertools.combinations(self.measured, 2)
            for first, second in zip(self.measured[a], self.measured[b], strict=True)
            for found in self._between(a, b, first, second)
        ]

    def _between(self, a: str, b: str, first: Measured, second: Measured) -> Iterator[Difference]:
        if len(first.units) != len(second.units):  # each brought rows of its own
            return
        known = intervals.parts_of(second.units, second.aggregate)
        for part in intervals.parts_of(first.units, first.aggregate):
            if part not in known:
                continue
            found = intervals.difference(
                first.units, second.units, part, first.aggregate, self.seed
            )
            if found is None:
                continue
            better = None
            if found.low is not None and found.high is not None and found.low * found.high > 0:
                better = (found.value > 0) == first.higher_is_better
            yield Difference(first.label(part), a, b, found, better)

    def as_json(self) -> dict[str, Any]:
        """The object that ``evaluate --json`` prints."""
        models = [
            {
                "name": name,
                "metrics": {label: _plain(e) for label, e in self.estimates(name).items()},
            }
            for name in self.measured
        ]
        differences = []
        for each in self.differences():
            numbers = _plain(each.estimate)
            numbers.pop("count")
            differences.append({"metric": each.metric, "a": each.a, "b": each.b, **numbers})
        return {"models": models, "differences": differences}

    def values(self) -> Iterator[dict[str, Any]]:
        """One row per model, metric and unit: its value, or what is added up, by part."""
        for model, all_measured in self.measured.items():
            for measured in all_measured:
                for row, unit in enumerate(measured.units):
                    parts = {"": None} if unit is None else dict(unit)
                    for part, value in parts.items():
                        label = measured.label(part)
                        yield {"model": model, "metric": label, "row": row, "value": value}

    def save(self, output_dir: str | Path) -> None:
        """Write ``samples.parquet``, ``values.parquet`` and ``evaluation.json``."""
        import pyarrow
        from pyarrow import parquet

        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        if self.samples:
            names = dict.fromkeys(name for sample in self.samples for name in sample)
            columns = {name: [sample.get(name) for sample in self.samples] for name in names}
            parquet.write_table(pyarrow.table(columns), folder / SAMPLES)
        values = list(self.values())
        if values:
            parquet.write_table(pyarrow.Table.from_pylist(values), folder / VALUES)
        text = json.dumps(self.as_json(), indent=1)
        (folder / SUMMARY).write_text(text + "\n", encoding="utf-8")


def _plain(estimate: Estimate) -> dict[str, Any]:
    """As JSON has it, where there is no infinity."""
    numbers = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    finite = {k: v if v is None or math.isfinite(v) else None for k, v in numbers.items()}
    return {**finite, "count": estimate.count}
