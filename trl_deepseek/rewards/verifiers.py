"""The rewards that a run without ``reward_funcs`` is scored by: those that its task brings.

A task is an embedded dataset that was registered with a verifier. Rows of anything else name their
task in a column ``task``: such a dataset, or a registered reward.
"""

from __future__ import annotations

from typing import Any

from trl_deepseek import data
from trl_deepseek.errors import ConfigError, DataError, did_you_mean
from trl_deepseek.registry import Registry

COLUMN = "task"
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


def brought_by(dataset: Any, registry: Registry) -> list[str]:
    """The reward that the rows bring, none or one.

    Args:
        dataset: A table, as it was loaded; a stream is known by its name alone.
        registry: Where tasks are looked up.

    Raises:
        ConfigError: The rows are of tasks with different verifiers, or name one that is not there.
        DataError: A row has no task where others have one.
    """
    if isinstance(dataset, dict):
        found = [each for part in dataset.values() for each in brought_by(part, registry)]
        return list(dict.fromkeys(found))
    source = data.source_of(dataset, "")
    names = [name for name in source.split(JOINED) if name in registry.datasets]
    columns = getattr(dataset, "column_names", None) or ()
    if not names and COLUMN in columns and hasattr(dataset, "__len__"):
        names = dataset.unique(COLUMN)
        if not all(isinstance(name, str) and name for name in names):
            number = next(i for i, name in enumerate(dataset[COLUMN]) if not name)
            raise DataError(
                f"{source or 'the dataset'}: row {number}: column {COLUMN!r} names no task\n"
                "  name one in every row, or rewards with --reward_funcs"
            )
    elif len(names) != len(source.split(JOINED)):
        return []
    found = list(dict.fromkeys(verifier_of(name, registry) for name in names))
    if len(found) > 1:
        raise ConfigError(
            f"the rows are of tasks with different verifiers: {', '.join(found)}\n"
            "  name rewards with --reward_funcs; one abstains from rows that are not its own"
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
