"""What a run writes down of itself in its folder: ``run.json``, ``log.jsonl``, ``warnings.jsonl``.

``run.json`` is the manifest: what the run is made with, and how each of its processes ended (a run
that is resumed has several). The two others have one JSON object a line, written as it happens, so
that they are there of a run that died. Nothing in here looks at models or data.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trl_deepseek import secrets

MANIFEST = "run.json"
LOG = "log.jsonl"  # each record of the trainer's log history, with its step
WARNINGS = "warnings.jsonl"  # time, step (None before the first) and message
REPORT = "report.html"
RUNNING = "running"  # how a process ends that has not ended, or was killed


def now() -> str:
    """The time, to the second, as ISO 8601 has it in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest in a folder, in one move."""
    new = folder / f"{MANIFEST}.new"
    text = json.dumps(manifest, indent=2, default=str, ensure_ascii=False)
    new.write_text(secrets.redacted(text) + "\n", encoding="utf-8")
    os.replace(new, folder / MANIFEST)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest in a folder; None where there is none that can be read."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def append(file: Path, record: Mapping[str, Any]) -> None:
    """Add one line to a file; what is not JSON is written as text."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(_line(record))


def lines(file: Path) -> list[dict[str, Any]]:
    """The objects in a file of lines; none where it is not there.

    A last line that a kill has cut short is left out: what it was to say was never whole.
    """
    if not file.is_file():
        return []
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict):
                found.append(record)
    return found


def begin(file: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replace a file of lines by these; none leave no file."""
    new = file.with_name(f"{file.name}.new")
    new.write_text("".join(map(_line, records)), encoding="utf-8")
    if new.stat().st_size:
        os.replace(new, file)
    else:
        new.unlink()
        file.unlink(missing_ok=True)


def is_held(folder: Path) -> bool:
    """Whether a process that trains holds the folder (see ``trainers.output_folder.alone_in``)."""
    try:
        held = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(held)
    return False


@contextlib.contextmanager
def never_failing(complain: Any, what: str) -> Iterator[None]:
    """What is written beside a run does not end it: an error is one warning, by ``complain``."""
    try:
        yield
    except Exception as error:
        complain("%s cannot be written: %s: %s", what, type(error).__name__, error)


def _line(record: Mapping[str, Any]) -> str:
    return secrets.redacted(json.dumps(record, default=_plain, ensure_ascii=False)) + "\n"


def _plain(value: Any) -> Any:
    """A number out of numpy or torch as one of Python's; anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)
