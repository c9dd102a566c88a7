"""Load a dataset by name and say what is wrong with it: which file, line and column.

A name is an embedded dataset, a ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file, a local
folder, or a hub id, in this order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import DataError
from trl_deepseek.registry import Registry
from trl_deepseek.types import DatasetKind

if TYPE_CHECKING:
    from datasets import Dataset

FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


def load(
    name: str,
    registry: Registry,
    *,
    kind: DatasetKind,
    split: str = "train",
    subset: str | None = None,
    size: int | None = None,
    seed: int = 0,
    streaming: bool = False,
) -> Any:
    """The rows of one split.

    Args:
        name: See the module's docstring.
        registry: Where embedded datasets are looked up.
        kind: Which shape of an embedded dataset is wanted.
        split: ``train``, ``test``, or the name of a hub dataset's split. A file has only ``train``;
            a folder with files named after their splits has them all.
        subset: Configuration of a hub dataset.
        size: Rows of an embedded dataset.
        seed: Order of an embedded dataset.
        streaming: Read rows as they are needed: an ``IterableDataset`` instead of a ``Dataset``.

    Raises:
        DataError: The file is missing, empty or malformed (with its line), or the hub has no such
            dataset.
    """
    if name in registry.datasets:
        rows = registry.datasets[name](split=split, kind=kind, size=size, seed=seed)
        rows = rows.to_iterable_dataset() if streaming else rows
    else:
        rows = _load_named(name, registry, split, subset, streaming)
    rows.info.dataset_name = name
    return rows


def source_of(dataset: Any, default: str) -> str:
    """What a dataset that :func:`load` loaded was called, also after it was mapped."""
    name: str | None = dataset.info.dataset_name
    return name or default


def require_columns(dataset: Dataset, needed: Iterable[str], source: str, who: str) -> None:
    """Refuse a dataset without the columns that ``who`` needs.

    Raises:
        DataError: Names the missing columns and those found.
    """
    missing = [column for column in needed if column not in dataset.column_names]
    if missing:
        raise DataError(
            f"{source} has no column {', '.join(map(repr, missing))}, which {who} needs\n"
            f"  columns found: {', '.join(dataset.column_names)}"
        )


def _load_named(
    name: str, registry: Registry, split: str, subset: str | None, streaming: bool
) -> Any:
    path = Path(name).expanduser()
    if path.is_file():
        if split != "train":
            raise DataError(
                f"data file {name!r} has no split {split!r}: a file is its train split\n"
                f"  name a folder that contains train{path.suffix} and {split}{path.suffix}"
            )
        return _load_file(name, path, streaming)
    if path.suffix in FORMATS or (name.startswith((".", "/", "~")) and not path.is_dir()):
        raise DataError(f"data file {name!r} does not exist")
    return _load_remote(name, registry, split, subset, streaming)


def _load_file(name: str, path: Path, streaming: bool) -> Any:
    from datasets import load_dataset

    if path.suffix not in FORMATS:
        raise DataError(
            f"data file {name!r} has an unknown ending {path.suffix!r}\n"
            f"  known: {', '.join(FORMATS)}"
        )
    if path.stat().st_size == 0:
        raise DataError(f"data file {name!r} is empty")
    if path.suffix == ".jsonl":
        check_lines(name, path)
    try:
        rows = load_dataset(
            FORMATS[path.suffix], data_files=str(path), split="train", streaming=streaming
        )
        is_empty = next(iter(rows), None) is None
    except Exception as error:  # each reader has its own errors, all of them about this file
        cause = error.__cause__ or error
        raise DataError(f"data file {name!r} cannot be read: {cause}") from error
    if is_empty:
        raise DataError(f"data file {name!r} has no rows")
    return rows


def check_lines(name: str, path: Path) -> None:
    """Find a malformed line first: the reader below would not name it."""
    rows = 0
    with path.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                row = json.loads(line.rstrip("\r\n"))  # so that the column is in this line
                if not isinstance(row, dict):
                    raise DataError(
                        f"{name}:{number}: a row must be a JSON object, this is {line.strip()[:60]}"
                    )
                rows += 1
        except json.JSONDecodeError as error:
            raise DataError(
                f"{name}:{number}: not valid JSON: {error.msg} (column {error.colno})\n"
                f"  {line.strip()[:100]}"
            ) from error
        except UnicodeDecodeError as error:
            raise DataError(f"data file {name!r} is not UTF-8: {error}") from error
    if not rows:
        raise DataError(f"data file {name!r} has no rows")


def _load_remote(
    name: str, registry: Registry, split: str, subset: str | None, streaming: bool
) -> Any:
    from datasets import load_dataset

    try:
        return load_dataset(name, subset, split=split, streaming=streaming)
    except Exception as error:  # hub, network and builder errors alike: the data is not to be had
        lines = str(error).strip().splitlines() or [type(error).__name__]
        embedded = ", ".join(registry.datasets)
        raise DataError(
            f"dataset {name!r} cannot be loaded: {lines[0]}\n"
            f"  it is no file here and no embedded dataset ({embedded})"
        ) from error
