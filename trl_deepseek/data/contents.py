"""What local data files hold, so that rows which were kept of them are not taken for their own.

``datasets`` keeps what it read by a file's path, size and time, and would give the old rows where
another was copied over it.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def name_of(paths: Iterable[Path]) -> str:
    """A name for what files hold."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return f"contents-{found.hexdigest()[:16]}"


def cache_of(names: Any, *, inside: str = "") -> str | None:
    """A folder of its own in which ``datasets`` keeps what it reads in local files.

    Args:
        names: A file, folder or pattern, or a list or mapping of them, such as ``data_files``.
        inside: A folder that they may be named in.

    Returns:
        None where nothing is here by these names.
    """
    from datasets import config

    found = set[Path]()
    for name in _texts(names):
        for path in (Path(name).expanduser(), Path(inside, name)):
            these = [path] if path.exists() else map(Path, glob.glob(str(path), recursive=True))
            for each in these:
                found.update(each.rglob("*") if each.is_dir() else [each])
    files = sorted(each for each in found if each.is_file())
    return str(Path(config.HF_DATASETS_CACHE, name_of(files))) if files else None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, (str, os.PathLike)):
        yield os.fspath(value)
    elif isinstance(value, (Mapping, list, tuple)):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(inner)
