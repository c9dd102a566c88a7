"""Whether a job may write into its output folder, and what ``--overwrite_output_dir`` does."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from trl_deepseek import checkpoints
from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs.job import Job
from trl_deepseek.memory import disk
from trl_deepseek.rewards.resolving import MODEL_PREFIX
from trl_deepseek.trainers import output_folder, provenance

logger = logging.getLogger(__name__)


def take(job: Job, *, overwrite: bool) -> None:
    """Refuse a folder in which a checked job would mix with something, or make room in it.

    Args:
        job: As its kind's ``check`` returned it.
        overwrite: Whether an earlier run there may be moved aside.

    Raises:
        ConfigError: The folder is a model's that the job reads, holds a run, or its disk is full.
    """
    folder = Path(job.config.output_dir)
    resumes = job.config.resume_from_checkpoint
    inside = resumes is not None and _is_in(Path(resumes), folder)
    if overwrite and inside:
        raise ConfigError(
            "--overwrite_output_dir and --resume_from_checkpoint contradict each other: "
            f"{resumes} is in {str(folder)!r}\n  leave one of the two out"
        )
    _check_models(job, folder, overwrite)
    inputs: Any = job.inputs
    inputs.made_with = provenance.of(inputs)
    found = output_folder.objection(folder, inputs.made_with, resumes=inside)
    if found and not overwrite:
        on = "--resume_from_checkpoint true goes on from the last checkpoint, "
        goes_on = on if found.endswith("of this run") else "name another folder, or "
        raise ConfigError(
            f"output_dir: {found}\n  {goes_on}--overwrite_output_dir begins anew and moves what is "
            f"there into {output_folder.REPLACED.format('N')}"
        )
    disk.check_room(job)
    if found and overwrite and os.environ.get("RANK", "0") == "0":
        target = output_folder.move_aside(folder)
        where = "" if target is None else f"; its checkpoints and records are now in {target}"
        logger.warning("%s%s\n  a model there is replaced when this run ends", found, where)


def _check_models(job: Job, folder: Path, overwrite: bool) -> None:
    """Refuse to write where the job reads."""
    scored = getattr(job.options, "reward_funcs", None) or []
    start = checkpoints.start_of(job.config)
    read = [job.model, *(name.removeprefix(MODEL_PREFIX) for name in scored)]
    read += [start.folder] if start is not None else []
    for name in read:
        model = Path(name).expanduser()
        if not model.is_dir() or not folder.is_dir():
            continue
        if model.samefile(folder) and not overwrite:
            raise ConfigError(
                f"output_dir: {str(folder)!r} is the folder of a model that this run reads\n"
                "  name another folder; --overwrite_output_dir replaces the model there at the end"
            )
        if overwrite and any(_is_in(model, moved) for moved in output_folder.moved_aside(folder)):
            raise ConfigError(
                f"output_dir: the run reads {name}, which --overwrite_output_dir would move\n"
                "  name another folder"
            )


def _is_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
