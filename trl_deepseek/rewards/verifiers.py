"""The rewards that a run without ``reward_funcs`` is scored by: those that its task brings.

A task is an embedded dataset that was registered with a verifier. Rows of anything else name their
task in a column ``task``: such a dataset, or a registered reward. Where their tasks have different
verifiers, each scores the rows of its own tasks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trl_deepseek import data
from trl_deepseek.data.mixing import TASK
from trl_deepseek.errors import ConfigError, DataError, did_you_mean
from trl_deepseek.registry import Registry
from trl_deepseek.types import Reward

JOINED = " + "  # how ``data.mix`` calls several datasets


def verifier_of(task: str, registry: Registry) -> str:
    """The reward of a task.

    Args:
        task: An embedded dataset with a verifier, or a registered reward.
        registry: Where it is looked up.

    Raises:
        ConfigError: It is neither.
    """
    if task in registry.datasets:
        found = registry.datasets[task].verifier
        if found is not None and found not in registry.rewards:
            raise ConfigError(
                f"task {task!r} brings the verifier {found!r}, which no plugin registers as a "
                f"reward{did_you_mean(found, registry.rewards)}"
            )
        if found is not None:
            return found
        raise ConfigError(
            f"task {task!r} brings no verifier\n  name one or more rewards with --reward_funcs"
        )
    if task in registry.rewards:
        return task
    known = [name for name, each in registry.datasets.items() if each.verifier is not None]
    raise ConfigError(
        f"there is no task {task!r}{did_you_mean(task, [*known, *registry.rewards])}\n"
        f"  embedded datasets with a verifier: {', '.join(known)}\n"
        f"  or a registered reward: {', '.join(registry.rewards)}"
    )


def brought_by(dataset: Any, registry: Registry) -> list[Reward]:
    """The rewards that the rows bring: none, one, or of several each for the rows of its tasks.

    Args:
        dataset: A table, as it was loaded; a stream is known by its name alone.
        registry: Where tasks are looked up.

    Raises:
        ConfigError: The rows name a task that is not there, or that brings no verifier.
        DataError: A row has no task where others have one.
    """
    parts = list(dataset.values()) if isinstance(dataset, dict) else [dataset]
    tasks = dict.fromkeys(task for part in parts for task in _tasks(part, registry))
    found: dict[str, list[str]] = {}
    for task in tasks:
        found.setdefault(verifier_of(task, registry), []).append(task)
    if len(found) < 2:
        return [registry.rewards[name] for name in found]
    return [_only(registry.rewards[name], own) for name, own in found.items()]


def _only(reward: Reward, tasks: list[str]) -> Reward:
    return replace(reward, columns=(*reward.columns, TASK), tasks=tuple(tasks))


def _tasks(dataset: Any, registry: Registry) -> list[str]:
    """The tasks that the rows of one dataset are of; none where they name none."""
    source = data.source_of(dataset, "")
    if source in registry.datasets:
        return [source]
    columns = getattr(dataset, "column_names", None) or ()
    if TASK not in columns or not hasattr(dataset, "__len__"):
        names = source.split(JOINED)
        return names if all(name in registry.datasets for name in names) else []
    found: list[Any] = dataset.unique(TASK)
    if not all(isinstance(name, str) and name for name in found):
        number = next(i for i, name in enumerate(dataset[TASK]) if not name)
        raise DataError(
            f"{source or 'the dataset'}: row {number}: column {TASK!r} names no task\n"
            "  name one in every row, or rewards with --reward_funcs"
        )
    return found


def named(inputs: Any) -> Any:
    """The ``reward_funcs`` of a trainer's inputs, else what its rows bring.

    Raises:
        ConfigError: There are none, and no environment that scores.
    """
    given = inputs.options.pop("reward_funcs", None)
    if given is not None:
        return given
    found = brought_by(inputs.train_dataset, inputs.registry)
    if not found and not inputs.options.get("environment_factory"):
        raise ConfigError(
            "--reward_funcs is required: one or more registered names (see `trl-deepseek plugins`) "
            "or file.py:function"
        )
    return found


__all__ = ["brought_by", "verifier_of"]
