"""What is in a checkpoint: every file with its size and a digest, in ``manifest.json``.

It is written last, before the folder gets its name, so a checkpoint that has one was whole once;
what is missing or changed since then is named.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

FILE = "manifest.json"
# Files up to this many bytes have a digest of all their bytes, larger ones of so many at each end:
# a cut, a hole of zeros at an end or another file is found without reading the weights again.
WHOLE = 8 << 20
END = 1 << 20


def write(folder: Path, **facts: Any) -> None:
    """Write the manifest of what is in ``folder`` now.

    Args:
        folder: All its files are closed.
        **facts: What else to note; plain values.
    """
    files = {
        file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": digest(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    text = json.dumps({**facts, "files": files}, indent=1)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def read(folder: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint; None where it has none.

    Raises:
        ValueError: It cannot be read; the message says why.
    """
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(f"{FILE} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{FILE} is damaged: {error}") from error
    files = found.get("files") if isinstance(found, dict) else None
    if not isinstance(files, dict) or not all(isinstance(each, dict) for each in files.values()):
        raise ValueError(f"{FILE} is damaged: it lists no files")
    return dict(found)


def difference(folder: Path, files: dict[str, Any]) -> str | None:
    """The first file of a manifest that is missing or not as it was, in one clause; else None."""
    for name, noted in files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        try:
            size = file.stat().st_size
            if size != noted.get("size"):
                return f"{name} has {size} bytes, not {noted.get('size')}"
            if digest(file) != noted.get("sha256"):
                return f"{name} has changed since it was saved"
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return None


def digest(file: Path) -> str:
    """The SHA-256 of a file's bytes, of the ends alone where it is larger than ``WHOLE``."""
    found = hashlib.sha256()
    with file.open("rb") as opened:
        size = file.stat().st_size
        if size <= WHOLE:
            found.update(opened.read())
        else:
            found.update(opened.read(END))
            opened.seek(-END, 2)
            found.update(opened.read(END))
    return found.hexdigest()
