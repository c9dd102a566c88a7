"""What is found in the rows of a table, kept by ``datasets`` where it keeps what it makes of them.

A second run on the same rows then reads what the first one found, as it reads its tokens.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Words = Sequence[str]  # what is found in a row: none, one or several texts
Look = Callable[[Mapping[str, Any]], Iterable[Words]]

_TOGETHER = 1000  # rows that are taken out of a table at once


def find(
    dataset: Any,
    columns: Sequence[str],
    look: Look,
    *,
    key: Any,
    processes: int | None = None,
    what: str | None = None,
) -> Iterator[tuple[int, Words]]:
    """What ``look`` finds in the rows, with their numbers, in their order.

    Args:
        dataset: A ``Dataset``.
        columns: Those that ``look`` reads; there may be none.
        look: Given a row, all that is found in it. It is pickled where there are ``processes``.
        key: Stands for all that the findings depend on besides the rows and our own code; None
            where nothing can, so that rows are looked at anew each time, in this process.
        processes: How many look at the rows at a time; None for this one alone.
        what: The title of a progress bar; None for no bar.
    """
    names = [name for name in columns if name in dataset.column_names]
    if not names:
        return
    rows = dataset.select_columns(names)
    several = (processes or 1) > 1
    form = dataset.format["type"]
    if form == "custom":  # a transform may depend on anything
        key = None
    if key is not None and (several or (_has_cache(dataset) and form is None)):
        from datasets import List, Value

        features = {"row": Value("int64"), "words": List(Value("string"))}
        make = functools.partial(_table, look=look)
        options = {"with_indices": True, "num_proc": processes if several else None}
        found = kept(
            rows, make, features, key=key, covers=_looked_at, desc=what or "Checking", **options
        )
        for batch in found.iter(_TOGETHER):
            for row, words in zip(batch["row"], batch["words"], strict=True):
                if row >= 0:
                    yield row, words
        return
    from tqdm.auto import tqdm

    with tqdm(total=len(dataset), desc=what, disable=what is None) as bar:
        for start, batch in enumerate(rows.iter(_TOGETHER)):
            numbers = range(start * _TOGETHER, len(dataset))
            yield from _found(batch, numbers, look)
            bar.update(min(_TOGETHER, len(numbers)))


def kept(
    rows: Any,
    make: Callable[..., Any],
    features: Mapping[str, Any],
    *,
    key: Any,
    covers: Callable[[Any], int] = len,
    **options: Any,
) -> Any:
    """A table that is made of another by ``Dataset.map``, a thousand rows at a time, or was made.

    Args:
        rows: A ``Dataset``; none of its columns is kept.
        make: What is mapped; it may depend on nothing but what ``find`` says of ``key``.
        features: The columns of the new table.
        key: As for ``find``.
        covers: How many of the rows a new table is about. One that was kept and is torn, so that
            it is about others than all, is made again.
        **options: More for ``Dataset.map``.
    """
    from datasets import Features
    from pyarrow import ArrowInvalid

    made = functools.partial(
        rows.map,
        make,
        batched=True,
        batch_size=_TOGETHER,
        remove_columns=rows.column_names,
        features=Features(dict(features)),
        keep_in_memory=not _has_cache(rows),
        new_fingerprint=fingerprint(rows, key),
        **options,
    )
    with contextlib.suppress(OSError, ArrowInvalid):  # what reading a part of a table raises
        table = made()
        if covers(table) == len(rows):
            return table
    return made(load_from_cache_file=False)


def fingerprint(rows: Any, key: Any) -> str:
    """Stands for what our code makes of a ``Dataset``; ``datasets`` knows a function by its name.

    Args:
        rows: The ``Dataset``.
        key: As for ``find``.
    """
    from datasets.fingerprint import Hasher

    return str(Hasher.hash([rows._fingerprint, key, _code()]))


def _has_cache(dataset: Any) -> bool:
    """Whether ``datasets`` has a folder for what it makes of a table."""
    files = dataset.cache_files
    return bool(files) and os.access(Path(files[0]["filename"]).parent, os.W_OK)


def _table(batch: Mapping[str, Any], numbers: Sequence[int], look: Look) -> dict[str, list[Any]]:
    """The findings, behind a line that says how many rows were looked at: less than none."""
    found = [(-len(numbers), ()), *_found(batch, numbers, look)]
    return {"row": [row for row, _ in found], "words": [words for _, words in found]}


def _looked_at(findings: Any) -> int:
    return -sum(row for row in findings["row"] if row < 0)


def _found(
    batch: Mapping[str, Any], numbers: Iterable[int], look: Look
) -> Iterator[tuple[int, Words]]:
    names = [*batch]
    for number, values in zip(numbers, zip(*batch.values(), strict=True), strict=False):
        for words in look(dict(zip(names, values, strict=True))):
            yield number, words


@functools.cache
def _code() -> str:
    """Stands for all of our code, so that what changed code would make anew is made anew."""
    import transformers
    import trl
    from datasets.fingerprint import Hasher

    files = sorted(Path(__file__).parent.rglob("*.py"))
    return Hasher.hash(
        [transformers.__version__, trl.__version__, *(file.read_bytes() for file in files)]
    )
