"""Completions to try rewards on: from a file of rows, or from what a GRPO run saved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from trl_deepseek import data
from trl_deepseek.chat.reasoning import texts
from trl_deepseek.errors import DataError
from trl_deepseek.registry import Registry
from trl_deepseek.rollouts import history
from trl_deepseek.rollouts.history import Row
from trl_deepseek.rollouts.trial import Samples

COMPLETION = "completion"
_OWN = (COMPLETION, "prompt", "completion_ids", "group", "group_id", "generation_prefix")


def read_file(name: str, registry: Registry, options: Mapping[str, Any]) -> Samples:
    """Samples from a file with a row per completion.

    A row has ``completion`` (text or messages), and may have ``prompt``, ``completion_ids``,
    ``group`` or ``group_id`` (equal for samples of one prompt) and any columns that rewards need.
    Without either, samples with equal prompts are a group.

    Args:
        name: A ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file, or the folder of a run.
        registry: For embedded datasets.
        options: What a trainer would pass to the rewards.

    Raises:
        DataError: The file is missing, empty or malformed, or a row has no completion.
    """
    rows = list(_lines(name) if name.endswith(".jsonl") else _table(name, registry))
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get(COMPLETION), (str, list)):
            found = "none" if COMPLETION not in row else repr(row[COMPLETION])[:60]
            raise DataError(
                f"{name}: row {number} needs a {COMPLETION!r}, a text or a list of messages; "
                f"it has {found}\n  its columns: {', '.join(row)}"
            )
    complete = [key for key in rows[0] if all(key in row for row in rows)]
    prompts = _whole(rows, "prompt")
    prefixes = _whole(rows, "generation_prefix") or [None]
    if isinstance(prefixes[0], str) and all(prefix == prefixes[0] for prefix in prefixes):
        options = {"generation_prefix": prefixes[0], **options}
    return Samples(
        completions=[row[COMPLETION] for row in rows],
        prompts=prompts,
        completion_ids=_whole(rows, "completion_ids"),
        columns={k: [row[k] for row in rows] for k in complete if k not in _OWN},
        groups=_groups(_whole(rows, "group") or _whole(rows, "group_id") or prompts),
        options=options,
    )


def _whole(rows: Sequence[Mapping[str, Any]], key: str) -> list[Any] | None:
    """A column, or None where a row does not have it."""
    values = [row.get(key) for row in rows]
    return None if None in values else values


def count_tokens(samples: Samples, name: str, registry: Registry) -> Samples:
    """``samples`` with the token ids of their texts, where they have none.

    Args:
        samples: As :func:`read_file` returns them.
        name: The embedded model, folder or hub id whose tokenizer splits the texts.
        registry: Where embedded models are looked up.

    Raises:
        ModelError: There is no such tokenizer.
    """
    from trl_deepseek import models

    if samples.completion_ids is not None:
        return samples
    known = name in registry.models
    tokenizer: Any = registry.models[name]()[1] if known else models.load_tokenizer(name, None)
    said = texts(samples.completions, samples.options.get("generation_prefix"))
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in said]
    return replace(samples, completion_ids=ids)


def from_history(rows: Sequence[Row], options: Mapping[str, Any]) -> Samples:
    """Samples from what a run saved; a group is one prompt of one generated batch."""
    columns = [key for key in rows[0].columns if all(key in row.columns for row in rows)]
    return Samples(
        completions=[row.completion for row in rows],
        prompts=[row.prompt for row in rows],
        completion_ids=[row.completion_ids for row in rows],
        columns={key: [row.columns[key] for row in rows] for key in columns},
        groups=[(row.batch, row.group) for row in rows],
        options={"generation_prefix": rows[0].generation_prefix, **options},
    )


def _groups(keys: Sequence[Any] | None) -> list[str] | None:
    """Comparable group names; None where no two samples share one."""
    if keys is None:
        return None
    names = [json.dumps(key, sort_keys=True, default=str) for key in keys]
    return names if len(set(names)) < len(names) else None


def _lines(name: str) -> Iterator[dict[str, Any]]:
    """Rows of a JSON Lines file; read by line, so that a column may hold values of any kinds."""
    path = Path(name).expanduser()
    if not path.is_file():
        raise DataError(f"data file {name!r} does not exist")
    data.check_lines(name, path)
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def _table(name: str, registry: Registry) -> Iterator[dict[str, Any]]:
    saved_by_run = Path(name, history.FOLDER)
    rows = data.load(str(saved_by_run) if saved_by_run.is_dir() else name, registry, kind="prompts")
    for row in rows:
        if row.keys() >= {"conversational", "columns", "completion"}:  # as a run saved it
            saved = history.decode(row)
            yield {
                **saved.columns,
                "prompt": saved.prompt,
                "completion": saved.completion,
                "completion_ids": saved.completion_ids,
                "generation_prefix": saved.generation_prefix,
                "group": [saved.batch, saved.group],
            }
        else:
            yield row
