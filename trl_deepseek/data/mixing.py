"""Several datasets as one, and columns under other names; the keys are those of TRL's ``datasets``.

    datasets:
      - path: chats.jsonl            embedded dataset, file, folder or hub id
        name: main                   configuration of a hub dataset
        split: train[:1000]
        columns: [prompt, completion]    kept; or {question: prompt}, renamed as well
        fraction: 0.7                share of the mixture, as in TRL: first rows, none repeated
        kwargs: {max_numbers: 3}     options of an embedded dataset, as dataset_kwargs
        weight: 0.7                  or the chance that the next row is from here; also in streams

Of prompts of tasks with different verifiers each row is given its task, so that its own scores it.

Source: ``trl.scripts.utils.DatasetMixtureConfig`` and ``get_dataset``; ``weight`` is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trl_deepseek.data import rows
from trl_deepseek.data.loading import load, load_files
from trl_deepseek.errors import ConfigError, DataError
from trl_deepseek.registry import Registry
from trl_deepseek.types import DatasetKind

TASK = "task"  # the column that names a row's task, for its verifier
KEYS = (
    "path",
    "name",
    "data_dir",
    "data_files",
    "split",
    "columns",
    "fraction",
    "weight",
    "kwargs",
)


def column_mapping(given: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Old names of columns to new ones, from ``["question=prompt"]`` or a mapping.

    Raises:
        ConfigError: An item is not ``old=new``, or a column is named twice.
    """
    if isinstance(given, Mapping):
        return dict(given)
    mapping: dict[str, str] = {}
    for item in given:
        old, equals, new = (part.strip() for part in item.partition("="))
        if not (old and equals and new):
            raise ConfigError(f"columns: {item!r} is not old=new, such as question=prompt")
        if old in mapping:
            raise ConfigError(f"columns: {old!r} is renamed twice")
        mapping[old] = new
    return mapping


def rename_columns(dataset: Any, mapping: Mapping[str, str], source: str) -> Any:
    """The dataset with columns under their new names.

    Args:
        dataset: A ``Dataset`` or ``IterableDataset``.
        mapping: Old names to new ones; columns may change places.
        source: The dataset's name, for messages.

    Raises:
        DataError: A column does not exist, or two would have one name.
    """
    found = rows.column_names(dataset)
    unknown = [old for old in mapping if old not in found]
    if unknown:
        raise DataError(
            f"{source} has no column {', '.join(map(repr, unknown))} to rename\n"
            f"  columns found: {', '.join(found)}"
        )
    names = [mapping.get(name, name) for name in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        olds = " and ".join(
            repr(old) for old, new in zip(found, names, strict=True) if new == twice
        )
        raise DataError(
            f"{source}: columns {olds} would both be called {twice!r}\n"
            f"  rename the other one too: {twice}=other_{twice}"
        )
    moved = {old: new for old, new in mapping.items() if old != new}
    if not moved:
        return dataset
    spare = {old: f"{old} renamed" for old in moved}  # a stream cannot change places in one step
    dataset = dataset.rename_columns(spare)
    return dataset.rename_columns({spare[old]: new for old, new in moved.items()})


def mix(
    parts: Sequence[Mapping[str, Any]],
    registry: Registry,
    *,
    kind: DatasetKind,
    seed: int = 0,
    streaming: bool = False,
) -> Any:
    """The rows of several datasets: one after the other, or drawn by ``weight``.

    Drawing ends with the first dataset that is used up, so that no row is repeated.

    Args:
        parts: See the module's docstring.
        registry: Where embedded datasets are looked up.
        kind: Which shape of an embedded dataset is wanted.
        seed: Order in which rows are drawn.
        streaming: Whether to read rows as they are needed.

    Raises:
        ConfigError: A part has an unknown key or no path, or only some have a share.
        DataError: A part cannot be loaded, or its columns are not those of the first.
    """
    from datasets import concatenate_datasets, interleave_datasets

    if not parts:
        raise ConfigError("datasets: the list is empty")
    for place, part in enumerate(parts):
        _check_keys(part, place)
    fractions, weights = _shares(parts, "fraction"), _shares(parts, "weight")
    if fractions and (weights or streaming):
        other = "weight" if weights else "streaming"
        raise ConfigError(f"datasets: fraction does not go together with {other}; use weight alone")
    loaded = [_load(part, registry, kind, seed, streaming) for part in parts]
    names = [str(part["path"]) for part in parts]
    if not (kind == "prompts" and _name_tasks(loaded, names, registry)):
        _check_alike(loaded, names)
    if fractions:
        total = min(len(part) / share for part, share in zip(loaded, fractions, strict=True))
        loaded = [
            part.select(range(round(share * total)))
            for part, share in zip(loaded, fractions, strict=True)
        ]
    try:
        if weights:
            mixture = interleave_datasets(
                loaded, weights, seed=seed, stopping_strategy="first_exhausted"
            )
        else:
            mixture = concatenate_datasets(loaded)
    except (TypeError, ValueError) as error:
        raise DataError(f"datasets {', '.join(names)} cannot be mixed: {error}") from error
    mixture.info.dataset_name = " + ".join(names)
    return mixture


def _check_keys(part: Any, place: int) -> None:
    where = f"datasets: item {place + 1}"
    if not isinstance(part, Mapping):
        raise ConfigError(f"{where} is {part!r}, not a mapping with path")
    unknown = [key for key in part if key not in KEYS]
    if unknown:
        names = ", ".join(map(repr, unknown))
        raise ConfigError(f"{where}: unknown key {names}\n  known: {', '.join(KEYS)}")
    if not isinstance(part.get("path"), str):
        raise ConfigError(f"{where} has no path: a dataset's name, file or folder")


def _shares(parts: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The shares that the parts have under ``key``, of 1; empty where none has any."""
    given: list[Any] = [part.get(key) for part in parts]
    if all(share is None for share in given):
        return []
    for part, share in zip(parts, given, strict=True):
        is_number = isinstance(share, (int, float)) and not isinstance(share, bool)
        if not is_number or not 0 < share < float("inf"):
            raise ConfigError(
                f"datasets: {part['path']}: {key} is {share!r}; give every dataset a positive "
                f"{key}, or none"
            )
    return [share / sum(given) for share in given]


def _load(
    part: Mapping[str, Any], registry: Registry, kind: DatasetKind, seed: int, streaming: bool
) -> Any:
    source, split = part["path"], part.get("split") or "train"
    more = {key: part[key] for key in ("data_dir", "data_files") if part.get(key) is not None}
    if more:
        dataset = load_files(source, part.get("name"), split, streaming, **more)
    else:
        dataset = load(
            source,
            registry,
            kind=kind,
            split=split,
            subset=part.get("name"),
            seed=seed,
            streaming=streaming,
            options=part.get("kwargs"),
        )
    columns = part.get("columns")
    if columns is None:
        return dataset
    found = rows.column_names(dataset)
    missing = [name for name in columns if name not in found]
    if missing:
        raise DataError(
            f"{source} has no column {', '.join(map(repr, missing))}\n"
            f"  columns found: {', '.join(found)}"
        )
    dataset = dataset.select_columns(list(columns))
    if isinstance(columns, Mapping):
        dataset = rename_columns(dataset, columns, source)
    return dataset


def _name_tasks(loaded: list[Any], names: Sequence[str], registry: Registry) -> bool:
    """Give each part a column ``task``, where all are of tasks that different verifiers score.

    Each has columns for its own verifier, which are null in the rows of the others.

    Returns:
        Whether it is so.
    """
    verifiers = [registry.datasets[n].verifier if n in registry.datasets else None for n in names]
    own = [TASK in rows.column_names(part) for part in loaded]
    are_tasks = all(v is not None or has for v, has in zip(verifiers, own, strict=True))
    if not are_tasks or (not any(own) and len(set(verifiers)) == 1):
        return False
    for place, (name, has) in enumerate(zip(names, own, strict=True)):
        part = loaded[place]
        if not has and rows.is_table(part):
            loaded[place] = part.add_column(TASK, [name] * len(part))
        elif not has:
            loaded[place] = part.map(lambda _, task=name: {TASK: task})
    return True


def _check_alike(loaded: Sequence[Any], names: Sequence[str]) -> None:
    expected = sorted(rows.column_names(loaded[0]))
    for dataset, name in zip(loaded[1:], names[1:], strict=True):
        found = sorted(rows.column_names(dataset))
        if found != expected:
            raise DataError(
                f"datasets: {names[0]} has the columns {', '.join(expected)}, and {name} has "
                f"{', '.join(found)}\n"
                "  give each dataset the same: columns: [prompt, completion] keeps some, "
                "columns: {question: prompt} renames"
            )
