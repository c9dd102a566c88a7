"""Every completion a GRPO run generated, with its scores, as Parquet files in the run's folder.

``OUTPUT_DIR/completions/`` holds, one row per completion:

==================== ==============================================================================
``step``             optimisation steps done when it was generated
``batch``            running number of the generated batch, over the whole run
``mode``             ``train`` or ``eval``
``group``            number of its prompt within the batch: equal for samples of one prompt
``prompt``           its text, or the messages as JSON
``completion``       likewise
``conversational``   whether these two are JSON
``completion_ids``   its tokens
``generation_prefix`` what the template wrote after the assistant header
``columns``          the dataset's other columns, as JSON
``weights``          of each reward in the total, as JSON
``advantage``        what the policy was updated with
``rewards/NAME``     the score of each reward; null where it abstained
==================== ==============================================================================

Each batch is written as a small file of its own, under a temporary name that is then changed, so
that a crash loses no whole batch and leaves no half file. Fifty of them are joined into one.
After a resume from a checkpoint, the steps that are done again appear again, in later batches.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import DataError, RunError, describe

if TYPE_CHECKING:
    import pyarrow

FOLDER = "completions"
JOIN = 50  # small files that become one
SCORES = "rewards/"

_NAME = re.compile(r"batches-(\d{8})-(\d{8})\.parquet")


@dataclass(frozen=True)
class Row:
    """One saved completion; the fields are described at the top of this module."""

    step: int
    batch: int
    mode: str
    group: int
    prompt: Any
    completion: Any
    completion_ids: list[int]
    generation_prefix: str
    columns: Mapping[str, Any]
    advantage: float | None
    scores: Mapping[str, float | None]
    weights: Mapping[str, float] = field(default_factory=dict)


class History:
    """Writes the completions of one run, in a thread beside the training.

    Args:
        output_dir: The run's folder.
        fresh: Whether the run starts at its beginning. Completions of an earlier run in the same
            folder are then moved aside, to ``completions-1`` and so on.
    """

    def __init__(self, output_dir: str, fresh: bool) -> None:
        self.folder = Path(output_dir, FOLDER)
        if fresh and _files(self.folder):
            number = 1
            while self.folder.with_name(f"{FOLDER}-{number}").exists():
                number += 1
            self.folder.rename(self.folder.with_name(f"{FOLDER}-{number}"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._next = max((last for _, last, _ in _files(self.folder)), default=-1) + 1
        # One thread keeps the order; Python waits for what it still has to write before it ends.
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "completions")
        self._written: list[concurrent.futures.Future[None]] = []

    def add(
        self,
        *,
        step: int,
        mode: str,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Sequence[int]],
        columns: Sequence[Mapping[str, Any]],
        scores: Mapping[str, Sequence[float | None]],
        advantages: Sequence[float],
        group_size: int,
        generation_prefix: str,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Have one generated batch written; what is passed must not change any more.

        Raises:
            RunError: An earlier batch could not be written.
        """
        batch, self._next = self._next, self._next + 1

        def write() -> None:
            import pyarrow as pa

            count = len(prompts)
            is_json = [not isinstance(prompt, str) for prompt in prompts]
            data: dict[str, Any] = {
                "step": pa.array([step] * count, pa.int64()),
                "batch": pa.array([batch] * count, pa.int64()),
                "mode": pa.array([mode] * count, pa.string()),
                "group": pa.array([i // group_size for i in range(count)], pa.int32()),
                "prompt": pa.array([_text(prompt) for prompt in prompts], pa.string()),
                "completion": pa.array([_text(text) for text in completions], pa.string()),
                "conversational": pa.array(is_json, pa.bool_()),
                "completion_ids": pa.array(list(completion_ids), pa.list_(pa.int32())),
                "generation_prefix": pa.array([generation_prefix] * count, pa.string()),
                "columns": pa.array([_json(row) for row in columns], pa.string()),
                "weights": pa.array([_json(weights or {})] * count, pa.string()),
                "advantage": pa.array(list(advantages), pa.float64()),
            }
            for name, values in scores.items():
                kept = [None if value is None or value != value else value for value in values]
                data[f"{SCORES}{name}"] = pa.array(kept, pa.float64())
            _write(pa.table(data), self.folder / _file_name(batch, batch))
            self._join()

        self._check(wait=False)
        self._written.append(self._writer.submit(write))

    def flush(self) -> None:
        """Wait until everything is written.

        Raises:
            RunError: Something could not be.
        """
        self._check(wait=True)

    def _check(self, wait: bool) -> None:
        while self._written and (wait or self._written[0].done()):
            try:
                self._written.pop(0).result()
            except OSError as error:
                raise RunError(
                    f"completions cannot be saved in {self.folder}: {error.strerror or error}\n"
                    f"  to train without saving them: save_completions false"
                ) from error

    def _join(self) -> None:
        """Make one file of the small ones, when there are enough."""
        small = [(first, path) for first, last, path in _files(self.folder) if first == last]
        if len(small) < JOIN:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        tables = [pq.read_table(path) for _, path in small]
        table = pa.concat_tables(tables, promote_options="default")
        _write(table, self.folder / _file_name(small[0][0], small[-1][0]))
        for _, path in small:  # a crash before this leaves copies, which readers pass over
            path.unlink()


def read(run: str | os.PathLike[str]) -> Iterator[Row]:
    """The completions that a run saved, in the order they were generated.

    Args:
        run: The run's folder, its ``completions`` folder, or one file of it.

    Raises:
        DataError: There are none, or a file is not whole.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = files(Path(run))
    if not paths:
        raise DataError(
            f"{str(run)!r} has no saved completions (looked for {Path(run) / FOLDER}/*.parquet)\n"
            f"  GRPO runs save them unless save_completions is false"
        )
    for path in paths:
        try:
            batches = pq.ParquetFile(path).iter_batches()
            rows = [decode(row) for batch in batches for row in batch.to_pylist()]
        except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
            raise DataError(
                f"{str(path)!r} is no whole file of completions: {describe(error)}\n"
                "  copy it anew; without it, what was generated in its batches is missing"
            ) from error
        yield from rows


def files(place: Path) -> list[Path]:
    """The files of a run's folder, of its ``completions`` folder, or the file itself, in order."""
    if place.is_file():
        return [place]
    return [path for _, _, path in _files(place / FOLDER) or _files(place)]


def is_readable(file: Path) -> bool:
    """Whether a file of completions is whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.read_metadata(file)
    except (OSError, pa.ArrowException):
        return False
    return True


def decode(row: dict[str, Any]) -> Row:
    """One row of a file; ``row`` is used up."""
    is_json = row.pop("conversational")
    decode = json.loads if is_json else str
    scores = {key: row.pop(key) for key in list(row) if key.startswith(SCORES)}
    return Row(
        **{
            **row,
            "prompt": decode(row["prompt"]),
            "completion": decode(row["completion"]),
            "columns": json.loads(row["columns"]),
            "weights": json.loads(row.get("weights") or "{}"),  # earlier runs did not save them
        },
        scores={key.removeprefix(SCORES): value for key, value in scores.items()},
    )


def _files(folder: Path) -> list[tuple[int, int, Path]]:
    """First and last batch of each file, without those that a joined file already contains."""
    found = [
        (int(match[1]), int(match[2]), path)
        for path in (folder.iterdir() if folder.is_dir() else ())
        if (match := _NAME.fullmatch(path.name))
    ]
    found.sort(key=lambda item: (item[0], -item[1]))
    kept: list[tuple[int, int, Path]] = []
    for item in found:
        if not kept or item[0] > kept[-1][1]:
            kept.append(item)
    return kept


def _file_name(first: int, last: int) -> str:
    return f"batches-{first:08d}-{last:08d}.parquet"


def _write(table: pyarrow.Table, file: Path) -> None:
    import pyarrow.parquet as pq

    temporary = file.with_suffix(".tmp")
    pq.write_table(table, temporary, compression="zstd")
    temporary.replace(file)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    # Images and the like are named, not saved.
    return json.dumps(value, ensure_ascii=False, default=lambda other: f"<{type(other).__name__}>")
