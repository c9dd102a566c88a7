"""Rows of reasoning-gym's tasks: difficulty, splits that share no question, curricula, mixtures.

``dataset_kwargs`` are the task's own (``{"max_numbers": 4}``; ``plugins`` of reasoning-gym lists
them) and these:

    level     how hard, from 0: a level of the library's curriculum
    levels    several of them, [0, 1, 2]: as many rows of each, the easiest first
    tasks     a mixture: task to its options, with weight among them, or to its weight alone
    question  how the question is put, from its metadata: "{numbers} = {target}"
    size      rows

A question belongs to one split for good, whatever seed and difficulty: by its text, or, where one
question is put in several ways, by what it is about.
"""

from __future__ import annotations

import logging
import random
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import ConfigError, DataError, did_you_mean
from trl_deepseek_plugins.gym.entries import packed

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

SIZES = {"train": 1000, "test": 200}
HELD_OUT_SHARE = 0.1  # of the questions
# The library draws question i from seed + i, so that seeds side by side have the same questions.
APART = 1_000_003
PATIENCE = 60  # questions that are drawn for each row that is wanted
OWN = ("level", "levels", "tasks", "question", "weight")
# What a question is about, in tasks that put one question in several ways.
ABOUT = {"countdown": ("numbers", "target"), "puzzle24": ("numbers",)}
KINDS = ("demonstrations", "prompts")


def draw(
    split: str,
    kind: str,
    size: int | None,
    seed: int,
    task: str | None,
    options: Mapping[str, Any],
) -> Dataset:
    """The rows: ``prompt``, ``solution`` and ``entry``, or ``prompt`` and ``completion``.

    Raises:
        ConfigError: An option is not known or has no meaning for the task.
        DataError: There is no such task, split, kind or size, or no question of the split.
    """
    from datasets import Dataset

    if split not in SIZES:
        raise DataError(f"reasoning_gym has no split {split!r}; its splits are 'train' and 'test'")
    if kind not in KINDS:
        raise DataError(f"reasoning_gym has no kind {kind!r}; its kinds are {', '.join(KINDS)}")
    wanted = SIZES[split] if size is None else size
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        raise DataError(f"reasoning_gym cannot have {size} rows")
    parts = _parts(task, options)
    counts = _counts(wanted, [weight for _, _, weight in parts])
    chance = random.Random(f"{split} {seed}")
    found: list[list[dict[str, Any]]] = [
        list(_part(name, own, split, count, seed))
        for (name, own, _), count in zip(parts, counts, strict=True)
    ]
    rows = [_row(entry, kind) for part in found for entry in part]
    if len(parts) > 1:
        chance.shuffle(rows)
    return Dataset.from_list(rows)


def _parts(task: str | None, options: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], float]]:
    """Each task with its options and weight."""
    mixture = options.get("tasks")
    if task is not None:
        if mixture is not None:
            raise ConfigError(
                f"dataset_kwargs: tasks is a mixture, and reasoning_gym:{task} is one task\n"
                "  name the dataset reasoning_gym, or leave tasks out"
            )
        return [(_known(task), dict(options), 1.0)]
    if not isinstance(mixture, Mapping) or not mixture:
        raise ConfigError(
            "reasoning_gym is many tasks: name one, such as reasoning_gym:countdown, or a mixture "
            'in dataset_kwargs: {"tasks": {"countdown": 2, "gcd": 1}}\n'
            f"  tasks: {', '.join(_names())}"
        )
    shared = {name: value for name, value in options.items() if name != "tasks"}
    parts = []
    for name, given in mixture.items():
        own = dict(given) if isinstance(given, Mapping) else {"weight": given}
        weight = own.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < 1e9:
            raise ConfigError(
                f"dataset_kwargs: tasks: {name} has the weight {weight!r}; it is a number above 0"
            )
        parts.append((_known(name), shared | own, float(weight)))
    return parts


def _names() -> list[str]:
    from reasoning_gym.factory import DATASETS

    return sorted(name for name in DATASETS if name != "composite")


def _known(task: str) -> str:
    names = _names()
    if task in names:
        return task
    raise DataError(
        f"reasoning_gym has no task {task!r}{did_you_mean(task, names)}\n"
        f"  tasks: {', '.join(names)}"
    )


def _counts(total: int, weights: list[float]) -> list[int]:
    """Rows of each part, largest remainders first, none without a row."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(each) for each in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: counts[i] - exact[i])
    for i in by_rest[: total - sum(counts)]:
        counts[i] += 1
    if 0 in counts:
        raise ConfigError(
            f"dataset_kwargs: tasks: of {total} rows, one would have none; raise size or its weight"
        )
    return counts


def _part(
    task: str, options: dict[str, Any], split: str, count: int, seed: int
) -> Iterator[dict[str, Any]]:
    """The entries of one task, level by level."""
    levels = options.pop("levels", None)
    question = options.pop("question", None)
    if levels is None:
        levels = [options.pop("level", None)]
    elif "level" in options:
        raise ConfigError("dataset_kwargs: level and levels both say how hard: leave one out")
    elif not isinstance(levels, list) or not levels:
        raise ConfigError(f"dataset_kwargs: levels is {levels!r}; it is a list such as [0, 1, 2]")
    else:
        logger.info("%s: the easiest first; --shuffle_dataset false keeps that order", task)
    for level, share in zip(levels, _counts(count, [1.0] * len(levels)), strict=True):
        config = _config(task, options, level)
        yield from _entries(task, config, split, share, seed, question)


def _config(task: str, options: Mapping[str, Any], level: Any) -> dict[str, Any]:
    """The options of the library's generator.

    Raises:
        ConfigError: One is not known, or the library refuses them.
    """
    from dataclasses import fields

    from reasoning_gym.factory import CURRICULA, DATASETS, create_curriculum, create_dataset

    known = [
        field.name for field in fields(DATASETS[task][1]) if field.name not in ("seed", "size")
    ]
    for option in options:
        if option not in known:
            raise ConfigError(
                f"dataset_kwargs: reasoning_gym:{task} has no option {option!r}"
                f"{did_you_mean(option, known, inline=True)}\n"
                f"  options: {', '.join((*OWN[:4], 'size', *known))}"
            )
    config = {name: tuple(v) if isinstance(v, list) else v for name, v in options.items()}
    if level is not None:
        if isinstance(level, bool) or not isinstance(level, int) or level < 0:
            raise ConfigError(f"dataset_kwargs: level is {level!r}; it is a whole number from 0")
        if task not in CURRICULA:
            raise ConfigError(f"dataset_kwargs: reasoning_gym:{task} has no levels")
        curriculum = create_curriculum(task)
        curriculum.set_global_level(level)
        made = curriculum.generate_configuration({"size": 1, "seed": 0})
        config = {name: getattr(made, name) for name in known} | config
    try:
        create_dataset(task, **config, seed=0, size=1)
    except Exception as error:  # each task has its own assertions about its own options
        said = str(error) or type(error).__name__
        raise ConfigError(f"dataset_kwargs: reasoning_gym:{task}: {said}") from error
    return config


def _entries(
    task: str,
    config: Mapping[str, Any],
    split: str,
    count: int,
    seed: int,
    question: str | None,
) -> Iterator[dict[str, Any]]:
    """So many different questions of one split; fewer, and that is said, where there are no more.

    Raises:
        DataError: There is none.
        ConfigError: ``question`` asks for what the metadata do not have.
    """
    from reasoning_gym.factory import create_dataset

    most = PATIENCE * count + 1000
    source = create_dataset(task, **config, seed=seed * APART % 2**31, size=most)
    seen: set[str] = set()
    for number in range(most):
        entry = source[number]
        about = _about(task, entry)
        if about in seen or _is_held_out(about) != (split == "test"):
            continue
        seen.add(about)
        if question is not None:
            entry["question"] = _put(question, task, entry["metadata"])
        yield entry
        if len(seen) == count:
            return
    where = f"reasoning_gym:{task}"
    if not seen:
        raise DataError(
            f"{where} has no {split} question among {most} that were drawn: with these options "
            "there are too few\n  make them less narrow"
        )
    logger.warning("%s has %d different %s questions, not %d", where, len(seen), split, count)


def _about(task: str, entry: Mapping[str, Any]) -> str:
    names = ABOUT.get(task)
    if names is None:
        return f"{task} {entry['question']}"
    held = [entry["metadata"][name] for name in names]
    return f"{task} {[sorted(each) if isinstance(each, list) else each for each in held]}"


def _is_held_out(about: str) -> bool:
    return zlib.crc32(about.encode()) / 2**32 < HELD_OUT_SHARE


def _put(question: str, task: str, metadata: Mapping[str, Any]) -> str:
    """The question in the user's words; lists are written with blanks between."""
    said = {
        name: " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        for name, value in metadata.items()
    }
    try:
        return question.format_map(said)
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(
            f"dataset_kwargs: question {question!r} cannot be filled for reasoning_gym:{task}: "
            f"{type(error).__name__}: {error}\n  it may use: {', '.join(metadata)}"
        ) from error


def _row(entry: Mapping[str, Any], kind: str) -> dict[str, Any]:
    prompt = [{"role": "user", "content": entry["question"]}]
    solution = entry["answer"]
    if kind == "prompts":
        return {"prompt": prompt, "solution": solution, "entry": packed(entry)}
    if not isinstance(solution, str):
        task = entry["metadata"]["source_dataset"]
        raise DataError(
            f"reasoning_gym:{task} has no answers to learn from, only a score of them\n"
            "  train it with GRPO"
        )
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": solution}]}


__all__ = ["draw"]
