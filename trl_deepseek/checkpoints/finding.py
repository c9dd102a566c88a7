"""Find the checkpoint to go on from: the newest whole one, and which torn ones were passed over."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path

from trl_deepseek.checkpoints import contents, manifest, without_manifest
from trl_deepseek.errors import ConfigError

NAME = re.compile(r"checkpoint-(\d+)")
LOST = "optimizer, scheduler and random states"


@dataclass(frozen=True)
class Found:
    """What is in a run's folder.

    Attributes:
        folder: The newest whole checkpoint; None where there is none.
        torn: Newer ones that are not whole, each with its reason, newest first.
        unread: What the system does not let be read, which may pass; None where it lets all.
    """

    folder: str | None
    torn: tuple[str, ...] = ()
    unread: str | None = None

    def passed_over(self) -> str | None:
        """One message about the torn ones; None where there are none."""
        if not self.torn:
            return None
        lines = "".join(f"\n  {each}" for each in self.torn)
        return f"passed over, since a save was cut short or files have changed:{lines}"

    def last(self, none: str) -> str:
        """One clause about what a run that ends here leaves; ``none`` where there is nothing."""
        if self.folder is not None:
            return f"the last checkpoint is {self.folder}"
        return none if self.unread is None else f"checkpoints cannot be read now: {self.unread}"


def newest(output_dir: str | Path, *, only_model: bool = False) -> Found:
    """The newest whole checkpoint in a run's folder.

    Args:
        output_dir: It need not exist.
        only_model: Whether the run saves models only (``save_only_model``).
    """
    torn: list[str] = []
    try:
        there = steps(output_dir)
    except OSError as error:
        return Found(None, unread=f"{output_dir}: {error.strerror}")
    for folder in sorted(there, key=step_of, reverse=True):
        problem = difference(folder, only_model=only_model)
        if problem is None:
            return Found(str(folder), tuple(torn))
        torn.append(f"{folder}: {problem}")
    return Found(None, tuple(torn), next(filter(None, map(_unread, there)), None))


def _unread(folder: Path) -> str | None:
    """Why the system does not let a checkpoint be read; None where it does, whole or torn."""
    try:
        with contextlib.ExitStack() as opened:  # at the same time: descriptors may be few
            for file in folder.iterdir():
                if file.is_file():
                    opened.enter_context(file.open("rb"))
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return None


def steps(output_dir: str | Path) -> list[Path]:
    """The folders that are named as checkpoints."""
    root = Path(output_dir)
    if not root.is_dir():
        return []
    return [path for path in root.iterdir() if NAME.fullmatch(path.name) and path.is_dir()]


def step_of(folder: Path) -> int:
    """The step that a checkpoint's name says."""
    match = NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def difference(folder: Path, *, only_model: bool = False) -> str | None:
    """What is missing or changed in a checkpoint, in one clause; None where it is whole."""
    try:
        noted = manifest.read(folder)
    except ValueError as error:
        return str(error)
    if noted is not None:
        found = manifest.difference(folder, noted["files"])
        if found is not None:
            return found
        only_model = only_model or bool(noted.get("only_model"))
    # a manifest that was edited must not hide what a run needs, nor what a file would do
    found = without_manifest.difference(folder, only_model=only_model)
    return contents.unreadable(folder) if found is None else found


def check(named: str | Path, option: str, *, only_model: bool = False) -> str:
    """The folder of a checkpoint that was named, seen to be whole.

    Args:
        named: As it was given.
        option: What gave it, for messages.
        only_model: See :func:`newest`.

    Raises:
        ConfigError: It is no checkpoint, or a file of it is missing or changed.
    """
    folder = Path(named)
    if not folder.is_dir() or not any(folder.iterdir()):
        raise ConfigError(f"{option}: {str(named)!r} is no checkpoint folder")
    problem = difference(folder, only_model=only_model)
    if problem is None:
        return str(named)
    way_out = "take another one"
    beside = newest(folder.parent, only_model=only_model) if NAME.fullmatch(folder.name) else None
    if beside is not None and beside.folder is not None:
        way_out = f"the newest whole one beside it is {beside.folder}"
    raise ConfigError(f"{option}: checkpoint {str(named)!r} is not whole: {problem}\n  {way_out}")


def what_is_lost(folder: str | Path, processes: int) -> list[str]:
    """Why a run that goes on from a whole checkpoint will not be the undisturbed one, in clauses.

    Args:
        folder: The checkpoint.
        processes: Of the run that goes on.
    """
    found = []
    if not any(Path(folder).glob("rng_state*.pth")):
        found.append(f"it was saved with save_only_model: {LOST} begin anew")
    else:
        wrote = len(list(Path(folder).glob("rng_state*.pth")))
        if wrote != processes:
            found.append(
                f"{wrote} process{'es' * (wrote > 1)} wrote it and {processes} go on: random "
                "states and what a process was working off begin anew where they have no file"
            )
    return found
