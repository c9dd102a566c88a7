"""Train what a job has checked, from the checkpoint that is meant, and save it."""

from __future__ import annotations

import logging
from typing import Any

from trl_deepseek import checkpoints, stopping
from trl_deepseek.errors import ConfigError, describe
from trl_deepseek.jobs import peers
from trl_deepseek.trainers import room
from trl_deepseek.trainers.stopping import StopWhenAsked

logger = logging.getLogger(__name__)

BEGIN_ANEW = (
    "leave the option out to begin anew; what is there is moved with --overwrite_output_dir"
)


def train(trainer: Any) -> Any:
    """Train, save the model, and push it where that is asked for; returns TRL's output.

    Raises:
        Interrupted: A signal ended it; the message says what is saved.
    """
    output = trainer.args.output_dir
    trainer.add_callback(StopWhenAsked())
    try:
        with stopping.waiting(), room.explained(output):
            result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
            trainer.save_model(output)
            trainer.create_model_card()
        if trainer.args.push_to_hub:
            trainer.push_to_hub()
    except KeyboardInterrupt as interrupt:
        raise stopping.explained(interrupt, saved_checkpoint(output)) from None
    except Exception as error:
        by, met = stopping.requested(), error
        error = peers.explained(error, trainer.args.ddp_timeout)
        if by is None:
            if error is met:
                raise
            raise error from met
        # The signal may have ended a process that the step needed.
        message = f"the step could not be finished: {describe(error)}; {saved_checkpoint(output)}"
        raise stopping.Interrupted(by, message) from error
    return result


def saved_checkpoint(output_dir: str) -> str:
    """One clause about what an interrupted run leaves behind."""
    found = checkpoints.newest(output_dir, only_model=True)
    way_on = f"; go on with --resume_from_checkpoint {found.folder}" if found.folder else ""
    return f"{found.last('no checkpoint had been saved yet')}{way_on}"


def checkpoint_to_resume(config: Any) -> str | None:
    """The folder that ``--resume_from_checkpoint`` means; ``true`` is the last one of the run.

    Those that are not whole are passed over, and named.

    Raises:
        ConfigError: There is no such checkpoint, or the one named is not whole.
    """
    option, wanted = "--resume_from_checkpoint", config.resume_from_checkpoint
    if wanted is None or wanted.lower() == "false":
        return None
    if wanted.lower() != "true":
        return checkpoints.check(wanted, option, only_model=config.save_only_model)
    found = checkpoints.newest(config.output_dir, only_model=config.save_only_model)
    message = found.passed_over()
    if found.folder is None:
        why = "" if message is None else f"\n  {message}"
        raise ConfigError(
            f"{option} true: no {'' if message is None else 'whole '}checkpoint in the output "
            f"folder {config.output_dir!r}{why}\n  {BEGIN_ANEW}"
        )
    if message is not None:
        logger.warning("%s", message)
    return found.folder
