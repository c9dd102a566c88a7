"""Where rows are of several tasks, a task's reward scores its own rows and abstains from others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trl_deepseek.data.mixing import TASK


def is_own(reward: Any, row: Mapping[str, Any]) -> bool:
    """Whether a reward scores a row."""
    tasks = getattr(reward, "tasks", None)
    return tasks is None or row.get(TASK) in tasks


def own_places(reward: Any, arguments: Mapping[str, Any]) -> list[int]:
    """The places of the samples of a batch that a reward scores.

    Args:
        reward: As :func:`trl_deepseek.rewards.resolve` returns it.
        arguments: Keyword arguments of a batch call.
    """
    count = len(arguments["completions"])
    tasks = arguments.get(TASK) or [None] * count
    return [place for place in range(count) if is_own(reward, {TASK: tasks[place]})]


def only(arguments: Mapping[str, Any], places: Sequence[int]) -> dict[str, Any]:
    """The arguments of a call with these samples of the batch alone."""
    count = len(arguments["completions"])
    if len(places) == count:
        return dict(arguments)
    return {
        name: [value[place] for place in places]
        if isinstance(value, list) and len(value) == count
        else value
        for name, value in arguments.items()
    }


def among_others(own: Sequence[Any], places: Sequence[int], count: int, other: Any) -> list[Any]:
    """What was found for samples at their places, and ``other`` everywhere else."""
    found = [other] * count
    for place, each in zip(places, own, strict=True):
        found[place] = each
    return found
