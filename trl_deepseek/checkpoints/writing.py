"""Write a folder aside and give it its name last, so that a kill never leaves half of one.

    out/_saving/checkpoint-4/...    while it is written; hubs skip names that begin with "_"
    out/checkpoint-4                renamed, once all is on the disk

A model in the run's own folder replaces the one that was there file by file, after all of its files
are on the disk: ``out/_saving/moving`` holds those still to be moved, and whoever comes next
finishes that.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path

from trl_deepseek.checkpoints import manifest

logger = logging.getLogger(__name__)

ASIDE = "_saving"
MODEL = "model"
MOVING = "moving"
SHARD = re.compile(r"(model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?")


def clear(folder: Path) -> None:
    """Remove what a save that was cut short left aside in ``folder``, and say so.

    A model that was being moved into place is moved to the end first.
    """
    aside = folder / ASIDE
    if not aside.is_dir():
        return
    if (aside / MOVING).is_dir():
        _move(aside / MOVING, folder)
        logger.warning("%s: a model's save was cut short while it was put in place; done", folder)
    left = ", ".join(sorted(path.name for path in aside.iterdir()))
    shutil.rmtree(aside)
    if left:
        logger.warning("%s: removed what a save that was cut short had left: %s", folder, left)


def publish(written: Path, final: Path, **facts: object) -> None:
    """Give a checkpoint that is written aside its manifest and its name.

    One that has the name already, such as that of an earlier run, is replaced.

    Args:
        written: ``folder/_saving/checkpoint-4``; nobody writes there any more.
        final: ``folder/checkpoint-4``.
        **facts: For the manifest.
    """
    manifest.write(written, **facts)
    sync(written)
    if final.exists():
        os.rename(final, written.parent / f"replaced-{final.name}")
    os.rename(written, final)
    sync_folder(final.parent)
    shutil.rmtree(written.parent)


def discard(checkpoint: Path) -> None:
    """Remove a checkpoint; a kill meanwhile leaves nothing that looks like one."""
    aside = checkpoint.parent / ASIDE
    aside.mkdir(exist_ok=True)
    os.rename(checkpoint, aside / checkpoint.name)
    shutil.rmtree(aside)


def begin_model(folder: Path) -> Path:
    """Where to write a model that will stand in ``folder``; the README there is taken along."""
    clear(folder)
    aside = folder / ASIDE / MODEL
    aside.mkdir(parents=True)
    if (folder / "README.md").is_file():  # peft adds to it what is there
        shutil.copy(folder / "README.md", aside)
    return aside


def publish_model(folder: Path) -> None:
    """Put a model that was written aside into ``folder``, in the place of the one there."""
    aside = folder / ASIDE
    sync(aside / MODEL)
    os.rename(aside / MODEL, aside / MOVING)
    sync_folder(aside)
    _move(aside / MOVING, folder)
    shutil.rmtree(aside)


def is_half_moved(folder: Path) -> bool:
    """Whether the model in ``folder`` is partly another one, since its save was cut short."""
    return (folder / ASIDE / MOVING).is_dir()


def _move(source: Path, folder: Path) -> None:
    coming = {path.name for path in source.iterdir()}
    if any(SHARD.fullmatch(name) for name in coming):
        for path in folder.iterdir():  # of the former model, in other pieces
            if SHARD.fullmatch(path.name) and path.name not in coming:
                path.unlink()
    for path in sorted(source.iterdir()):
        target = folder / path.name
        if path.is_dir() and target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    sync_folder(folder)
    source.rmdir()


def sync(folder: Path) -> None:
    """Have all files under ``folder``, and the folders, on the disk."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            with path.open("rb") as opened:
                os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in ``folder`` on the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError:  # a file system that does not sync folders, such as some over a network
        pass
    finally:
        os.close(number)
