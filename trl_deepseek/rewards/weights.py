"""Reward weights: by position as TRL has them, by name, and changing over the run.

    reward_weights: {math_accuracy: 1.0, think_format: {0: 0.5, 200: 0.5, 500: 0.0}}

A schedule maps optimisation steps to weights. Between two of its steps the weight moves in a
straight line; before the first and after the last it stays.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trl_deepseek.errors import ConfigError, did_you_mean

FORMS = "numbers, one per reward; name=number; or a mapping {name: number or {step: number}}"


@dataclass(frozen=True)
class Weights:
    """One weight per reward at each step.

    Attributes:
        points: For each reward its (step, weight) pairs, by step; one pair where it is constant.
    """

    points: tuple[tuple[tuple[int, float], ...], ...]

    @property
    def constant(self) -> bool:
        """Whether no weight changes."""
        return all(len(pairs) == 1 for pairs in self.points)

    def at(self, step: int) -> list[float]:
        """The weights at an optimisation step, in the order of the rewards."""
        return [_interpolate(pairs, step) for pairs in self.points]


def _interpolate(pairs: tuple[tuple[int, float], ...], step: int) -> float:
    after = bisect_right([at for at, _ in pairs], step)
    if after == 0:
        return pairs[0][1]
    if after == len(pairs):
        return pairs[-1][1]
    (start, low), (end, high) = pairs[after - 1], pairs[after]
    return low + (high - low) * (step - start) / (end - start)


def parse(given: Any) -> list[Any] | dict[str, Any] | None:
    """The config field as numbers by position or a mapping by name.

    Args:
        given: None, a sequence of numbers, a mapping, or the words of a command line: numbers,
            ``name=number``, or one JSON object.

    Raises:
        ConfigError: It is none of these.
    """
    if given is None or isinstance(given, Mapping):
        return None if given is None else dict(given)
    words = [given] if isinstance(given, (str, int, float)) else list(given)
    if len(words) == 1 and isinstance(words[0], str) and words[0].lstrip().startswith("{"):
        try:
            mapping = json.loads(words[0])
        except json.JSONDecodeError as error:
            raise ConfigError(f"reward_weights {words[0]!r} is not JSON: {error}") from error
        return dict(mapping)
    if words and all("=" in str(word) for word in words):
        pairs = [str(word).rpartition("=") for word in words]
        twice = [name for name, count in Counter(name for name, _, _ in pairs).items() if count > 1]
        if twice:
            raise ConfigError(f"reward_weights: {twice[0]!r} is there twice")
        return {name: number(value, f"reward_weights: {name}") for name, _, value in pairs}
    return [number(word, "reward_weights") for word in words]


def weigh(given: Any, names: Sequence[str]) -> Weights | None:
    """The weights of the rewards called ``names``, 1 for those that a mapping leaves out.

    Returns:
        None where nothing is given; all are then TRL's default, 1.

    Raises:
        ConfigError: A name is not one of ``names``, or a weight or step is not a number.
    """
    parsed = parse(given)
    if parsed is None:
        return None
    if isinstance(parsed, list):
        if len(parsed) != len(names):
            raise ConfigError(
                f"reward_weights has {len(parsed)} numbers for {len(names)} rewards "
                f"({', '.join(names)})"
            )
        parsed = dict(zip(names, parsed, strict=True))
    for name in parsed:
        if name not in names:
            raise ConfigError(
                f"reward_weights: {name!r} is not one of the rewards"
                f"{did_you_mean(name, names)}\n"
                f"  rewards: {', '.join(names)}"
            )
    points = tuple(_points(parsed.get(name, 1.0), name) for name in names)
    if points and not any(weight for each in points for _, weight in each):
        raise ConfigError("reward_weights: all are 0, so that nothing would be learned")
    return Weights(points)


def _points(value: Any, name: str) -> tuple[tuple[int, float], ...]:
    where = f"reward_weights: {name}"
    if not isinstance(value, Mapping):
        return ((0, number(value, where)),)
    pairs = []
    for step, weight in value.items():
        try:
            at = int(str(step))
        except ValueError:
            at = -1
        if at < 0:
            raise ConfigError(f"{where}: {step!r} is not a step (a whole number from 0)")
        pairs.append((at, number(weight, f"{where}, step {at}")))
    if not pairs:
        raise ConfigError(f"{where}: the schedule is empty")
    return tuple(sorted(pairs))


def number(value: Any, where: str, allowed: str = FORMS) -> float:
    """``value`` as a finite number.

    Raises:
        ConfigError: It is none; the message says ``where`` and what is ``allowed``.
    """
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = float("nan")
    if isinstance(value, bool) or not abs(result) < float("inf"):
        raise ConfigError(f"{where}: {value!r} is not a number\n  allowed: {allowed}")
    return result
