"""What stands in a run's output folder: which run wrote it, and what is moved aside for another.

A run leaves its record (see ``provenance``) in the folder when it begins. By that a command finds
out that the folder holds another run, or this one, before anything in it is replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trl_deepseek.checkpoints import finding
from trl_deepseek.errors import ConfigError
from trl_deepseek.rollouts import record
from trl_deepseek.trainers import provenance

REPLACED = "replaced-{}"
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin.index.json", "pytorch_model*.bin")
# What a run leaves beside its checkpoints while it goes on; the model comes at its end.
LEFT = (
    *(record.MANIFEST, record.LOG, record.WARNINGS, record.REPORT),
    *("completions", "reward_failures", "generated_code.json"),
)
SHOWN = 8  # differences


def objection(folder: Path, now: Mapping[str, Any], *, resumes: bool = False) -> str | None:
    """What the folder holds and what differs, where a run made with ``now`` would mix with it.

    Args:
        folder: The output folder; it need not exist.
        now: The run's record.
        resumes: Whether it goes on from a checkpoint there, where other settings may be meant.
    """
    saved = finding.steps(folder)
    has_model = any(any(folder.glob(pattern)) for pattern in WEIGHTS)
    if not saved and not has_model:
        return None
    held = [f"{len(saved)} checkpoint{'s' * (len(saved) > 1)}"] * bool(saved)
    holds = f"{str(folder)!r} holds {' and '.join([*held, *['a model'] * has_model])}"
    before = _record(folder, saved)
    if before is None:
        return None if resumes else f"{holds} of a run that left no record of how it was made"
    changed = provenance.differences(before, now)
    if resumes:
        other = [each for each in changed if each.startswith("trainer: ")]
        return f"{holds} of another run:\n  {other[0]}" if other else None
    if changed:
        more = [f"and {len(changed) - SHOWN} more"] if len(changed) > SHOWN else []
        return "\n  ".join([f"{holds} of another run:", *changed[:SHOWN], *more])
    return f"{holds} of this run" if saved else None


def _record(folder: Path, saved: list[Path]) -> dict[str, Any] | None:
    """The record of the run in a folder, or else of its newest checkpoint that has one."""
    newest = sorted(saved, key=finding.step_of, reverse=True)
    found = (record.read_manifest(place) for place in (folder, *newest))
    return next((each for each in found if each is not None), None)


def moved_aside(folder: Path) -> list[Path]:
    """What :func:`move_aside` would move."""
    left = [folder / name for name in LEFT]
    return [*finding.steps(folder), *(path for path in left if path.exists())]


def move_aside(folder: Path) -> Path | None:
    """Move an earlier run's checkpoints, record and completions into a folder of their own.

    Nothing is removed, and what is not of a run stays. The model stays too, until the new one
    replaces it.

    Returns:
        Where they are; None where there were none.
    """
    moved = moved_aside(folder)
    if not moved:
        return None
    number = 1
    while (target := folder / REPLACED.format(number)).exists():
        number += 1
    target.mkdir()
    for path in moved:
        os.rename(path, target / path.name)
    return target


@contextlib.contextmanager
def not_made_in_vain(folder: Path) -> Iterator[None]:
    """While a trainer is built: where it is refused, the folder that transformers made goes."""
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # another process has written there
            for place in made:
                place.rmdir()
        raise


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder while a run writes there; the lock goes with the process, however it ends.

    Raises:
        ConfigError: Another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"output_dir: another run is writing in {str(folder)!r}\n"
                "  wait until it has ended, or name another folder"
            ) from error
        yield
    finally:
        os.close(held)
