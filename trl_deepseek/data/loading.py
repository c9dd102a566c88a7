"""Load a dataset by name and say what is wrong with it: which file, line and column.

A name is an embedded dataset, a ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file, a local
folder, or a hub id, in this order.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from trl_deepseek.data import cache, contents
from trl_deepseek.data.rows import some
from trl_deepseek.dataset_types import dataset_options
from trl_deepseek.errors import ConfigError, DataError, boundary, describe, did_you_mean
from trl_deepseek.registry import Registry
from trl_deepseek.types import DatasetKind

if TYPE_CHECKING:
    from datasets import Dataset

# Columns that are text whatever stands in them: a table of sums has answers that look like numbers.
TEXT = (
    "prompt", "completion", "chosen", "rejected", "text", "instruction", "input", "output",
    "question", "system",
)  # fmt: skip
# Only a blank is missing: None, NA and null are answers that people give.
CSV: dict[str, Any] = {
    "converters": dict.fromkeys(TEXT, str),
    "keep_default_na": False,
    "na_values": [""],
}
FORMATS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
# Names that ``datasets`` gives by itself, which say nothing about a dataset.
BUILDERS = frozenset({*FORMATS.values(), "generator", "text", "arrow", "list"})


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
    options: Mapping[str, Any] | None = None,
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
        options: Of an embedded dataset: ``dataset_kwargs``; ``size`` may be one of them.

    Raises:
        ConfigError: An option is not known to that dataset, or it is none that has options; or the
            cache of ``datasets`` cannot be written.
        DataError: The file is missing, empty or malformed (with its line), or the hub has no such
            dataset.
    """
    own = dataset_options(options, name, embedded=name in registry.datasets)
    if name in registry.datasets:
        if subset is not None:
            raise DataError(f"{name} has no configurations: leave dataset_config {subset!r} out")
        given = own.pop("size", None)
        size = given if size is None else size
        with boundary(DataError, f"dataset {name!r} cannot be built"):
            rows = registry.datasets[name](split=split, kind=kind, size=size, seed=seed, **own)
        if not hasattr(rows, "to_iterable_dataset"):
            raise DataError(
                f"dataset {name!r}: what builds it returned {type(rows).__name__}, not a "
                "datasets.Dataset"
            )
        rows = rows.to_iterable_dataset() if streaming else rows
    else:
        rows = _load_named(name, registry, split, subset, streaming)
    rows.info.dataset_name = name
    return cache.known_with_code(rows)


def load_held_out(name: str, registry: Registry, *, split: str = "test", **options: Any) -> Any:
    """The rows of a dataset that is there to be evaluated on.

    Args:
        name: As in :func:`load`. All rows of a file are meant, whatever ``split`` says.
        registry: Where embedded datasets are looked up.
        split: The split of anything else.
        **options: As in :func:`load`.

    Raises:
        DataError: As in :func:`load`.
    """
    is_file = name not in registry.datasets and Path(name).expanduser().is_file()
    return load(name, registry, split="train" if is_file else split, **options)


def source_of(dataset: Any, default: str) -> str:
    """What a dataset that :func:`load` loaded was called, also after it was mapped."""
    name = getattr(getattr(dataset, "info", None), "dataset_name", None)
    return default if name is None or name in BUILDERS else name


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
        if subset is not None:
            raise DataError(f"{name} has no configurations: leave dataset_config {subset!r} out")
        if split.partition("[")[0] != "train":
            raise DataError(
                f"data file {name!r} has no split {split!r}: a file is its train split\n"
                f"  name a folder that contains train{path.suffix} and {split}{path.suffix}"
            )
        return _load_file(name, path, split, streaming)
    if path.suffix in FORMATS or (name.startswith((".", "/", "~")) and not path.is_dir()):
        raise DataError(f"data file {name!r} does not exist{_file_that_is_meant(path)}")
    return _load_remote(name, registry, split, subset, streaming)


def _file_that_is_meant(path: Path) -> str:
    """The data file of nearly this name, as a line of a message; nothing where there is none."""
    folder = path.parent
    if not folder.is_dir():
        return f"\n  there is no folder {str(folder)!r}"
    files = {each.stem: each for each in sorted(folder.iterdir()) if each.suffix in FORMATS}
    close = difflib.get_close_matches(path.stem, files, n=1)
    return f"\n  did you mean {str(files[close[0]])!r}?" if close else ""


def _load_file(name: str, path: Path, split: str, streaming: bool) -> Any:
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
        with cache.explained():
            rows = load_dataset(
                FORMATS[path.suffix],
                None if streaming else contents.name_of([path]),
                data_files=str(path),
                split=split,
                streaming=streaming,
                **(CSV if path.suffix == ".csv" else {}),
            )
        is_empty = next(iter(rows), None) is None
    except ConfigError:
        raise
    except Exception as error:  # each reader has its own errors, all of them about this file
        cause = error.__cause__ or error
        if "corresponds to no data" in str(cause):
            raise DataError(f"data file {name!r} has no rows") from error
        raise DataError(f"data file {name!r} cannot be read: {cause}") from error
    if is_empty:
        raise DataError(f"data file {name!r} has no rows")
    if path.suffix != ".csv":
        return rows
    for separator in (";", "\t"):
        if rows.column_names and len(rows.column_names) == 1 and separator in rows.column_names[0]:
            raise DataError(
                f"data file {name!r} is separated by {separator!r}, not by commas: its only column "
                f"is {rows.column_names[0]!r}\n  save it with commas"
            )
    return rows if streaming else _with_whole_numbers(rows)


def _with_whole_numbers(rows: Dataset) -> Dataset:
    """Whole numbers that became decimals because the column has a blank, which is None."""
    import pyarrow.compute as pc
    from datasets import Value

    for name, feature in rows.features.items():
        column = rows.data.column(name)
        if feature.dtype != "float64" or not column.null_count or column.null_count == len(column):
            continue
        if pc.all(pc.equal(pc.floor(column), column)).as_py():
            rows = rows.cast_column(name, Value("int64"))
    return rows


def load_files(builder: str, subset: str | None, split: str, streaming: bool, **where: Any) -> Any:
    """What ``datasets.load_dataset`` finds in ``data_files`` or ``data_dir``.

    Raises:
        DataError: It cannot be loaded.
    """
    from datasets import load_dataset

    options = dict(CSV) if builder == "csv" else {}
    try:
        if not streaming:
            options["cache_dir"] = contents.cache_of(where, inside=builder)
        with cache.explained():
            return load_dataset(
                builder, subset, split=split, streaming=streaming, **where, **options
            )
    except ConfigError:
        raise
    except Exception as error:  # each builder has its own errors, all of them about these files
        lines = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        shown = ", ".join(f"{key} {value!r}" for key, value in where.items())
        raise DataError(f"dataset {builder!r} with {shown} cannot be loaded: {lines[0]}") from error


def check_lines(name: str, path: Path) -> None:
    """Find malformed lines first: the reader below would not name them.

    Raises:
        DataError: Some are; it names the first, and knows of all.
    """
    rows, faults = 0, dict[int, str]()
    with path.open(encoding="utf-8-sig") as lines:  # Windows begins files with a mark
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    rows += 1
                    fault = _fault_of_line(line)
                    if fault is not None:
                        faults[number] = fault
        except UnicodeDecodeError as error:
            raise DataError(
                f"data file {name!r} is not UTF-8: {error}\n"
                "  convert it, with `iconv -f WINDOWS-1252 -t UTF-8`, say"
            ) from error
    if faults:
        first, *others = faults
        more = f"\n  {some(others, 'line')} cannot be read either" if others else ""
        refused = DataError(f"{name}:{first}: {faults[first]}{more}")
        refused.lines = {f"{name}:{number}": fault for number, fault in faults.items()}
        raise refused
    if not rows:
        raise DataError(f"data file {name!r} has no rows")


def _fault_of_line(line: str) -> str | None:
    try:
        row = json.loads(line.rstrip("\r\n"))  # so that the column is in this line
    except json.JSONDecodeError as error:
        return f"not valid JSON: {error.msg} (column {error.colno})\n  {line.strip()[:100]}"
    except RecursionError:
        return f"nested too deeply\n  {line.strip()[:100]}"
    if not isinstance(row, dict):
        return f"a row must be a JSON object, this is {line.strip()[:60]}"
    return None


def lines_of(name: str, numbers: Collection[int]) -> dict[int, int]:
    """The line, from 1, of each of these rows, from 0, in a ``.jsonl`` or ``.csv`` file.

    Nothing for any other dataset, or where the file cannot be read.
    """
    path = Path(name).expanduser()
    starts: Iterator[int]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".jsonl":
                starts = (line for line, text in enumerate(file, 1) if text.strip())
            elif path.suffix == ".csv":
                starts = _records(file)
                next(starts, None)  # the names of the columns
            else:
                return {}
            return {row: line for row, line in enumerate(starts) if row in numbers}
    except (OSError, ValueError, csv.Error):
        return {}


def _records(file: TextIO) -> Iterator[int]:
    """The line on which each record begins; a quoted cell may go over several."""
    reader, before = csv.reader(file), 0
    for record in reader:
        if record:
            yield before + 1
        before = reader.line_num


def _load_remote(
    name: str, registry: Registry, split: str, subset: str | None, streaming: bool
) -> Any:
    from datasets import load_dataset

    try:
        is_here = Path(name).expanduser().is_dir() and not streaming
        folder = contents.cache_of(name) if is_here else None
        with cache.explained():
            return load_dataset(name, subset, split=split, streaming=streaming, cache_dir=folder)
    except ConfigError:
        raise
    except Exception as error:  # hub, network and builder errors alike: the data is not to be had
        lines = str(error).strip().splitlines() or [type(error).__name__]
        embedded = ", ".join(registry.datasets)
        path = Path(name).expanduser()
        if path.is_dir():
            raise DataError(
                f"data folder {name!r} cannot be loaded: {describe(error.__cause__ or error)}\n"
                "  its files are read as one dataset, and have to have the same columns; or name "
                "one file"
            ) from error
        hint = did_you_mean(name, registry.datasets)
        hint = hint or (_file_that_is_meant(path) if path.parent.is_dir() else "")
        raise DataError(
            f"dataset {name!r} cannot be loaded: {lines[0]}{hint}\n"
            f"  it is no file here and no embedded dataset ({embedded})"
        ) from error
