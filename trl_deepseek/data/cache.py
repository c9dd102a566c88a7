"""The cache of ``datasets``: which code made what is in it, and what is said when it is full."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trl_deepseek import row_findings
from trl_deepseek.errors import ConfigError

FULL = (errno.ENOSPC, errno.EDQUOT)
NEARLY_FULL = 2**24
"""Bytes left of a disk from which on an error that names neither file nor disk is taken for its: a
table is written a megabyte and more at a time."""


def known_with_code(dataset: Any) -> Any:
    """The same rows, under another name for ``datasets``, which stands for our code, too.

    It names what it keeps by the rows and by the function that made it, of which it knows no more
    than the name: once an upgrade had changed one, it would give what the old one made.

    Args:
        dataset: A ``Dataset``; anything else is returned as it is.
    """
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        return dataset
    known = copy.copy(dataset)
    known._fingerprint = row_findings.fingerprint(dataset, None)
    return known


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """What is raised inside because the folder cannot be written comes out as one message.

    Raises:
        ConfigError: Names the folder, what the system says, and what to do.
    """
    try:
        yield
    except Exception as error:
        from datasets import config

        folder = Path(config.HF_DATASETS_CACHE).absolute()
        said = _said(error, folder)
        if said is None:
            raise
        raise ConfigError(
            f"the cache of datasets, {str(folder)!r}, cannot be written: {said}\n"
            "  make room or make it writable, or name another folder in HF_DATASETS_CACHE"
        ) from error


def _said(error: BaseException, folder: Path) -> str | None:
    """What the system says of the folder in an error or in what led to it; None for nothing."""
    each: BaseException | None = error
    while each is not None:
        if "Not enough disk space" in str(each):  # by datasets, before it begins
            return str(each)
        if isinstance(each, OSError) and isinstance(each.filename, str):
            if Path(each.filename).absolute().is_relative_to(folder):
                return os.strerror(each.errno or 0)
        elif isinstance(each, (OSError, ValueError)):  # of pyarrow, which goes on to write
            no_room = (
                each.errno in FULL if isinstance(each, OSError) else "closed file" in str(each)
            )
            disk = next(path for path in (folder, *folder.parents) if path.exists())
            if no_room and shutil.disk_usage(disk).free < NEARLY_FULL:
                return os.strerror(errno.ENOSPC)
        each = each.__cause__ or each.__context__
    return None
