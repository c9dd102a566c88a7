"""Train what a job has checked, from the checkpoint that is meant, and save it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trl_deepseek.errors import ConfigError


def train(trainer: Any) -> Any:
    """Train, save the model, and push it where that is asked for; returns TRL's output.

    Raises:
        KeyboardInterrupt: It was interrupted; the argument says what is saved.
    """
    output = trainer.args.output_dir
    try:
        result = trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(saved_checkpoint(output)) from None
    trainer.save_model(output)
    if trainer.args.push_to_hub:
        trainer.push_to_hub()
    return result


def saved_checkpoint(output_dir: str) -> str:
    """One clause about what an interrupted run leaves behind."""
    from transformers.trainer_utils import get_last_checkpoint

    last = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    if last is None:
        return "no checkpoint had been saved yet"
    return f"the last checkpoint is {last}; go on with --resume_from_checkpoint {last}"


def checkpoint_to_resume(config: Any) -> str | None:
    """The folder that ``--resume_from_checkpoint`` means; ``true`` is the last one of the run.

    Raises:
        ConfigError: There is no such checkpoint.
    """
    from transformers.trainer_utils import get_last_checkpoint

    wanted = config.resume_from_checkpoint
    if wanted is None or wanted.lower() == "false":
        return None
    if wanted.lower() != "true":
        if not Path(wanted, "trainer_state.json").is_file():
            raise ConfigError(f"--resume_from_checkpoint: {wanted!r} is no checkpoint folder")
        return str(wanted)
    output = config.output_dir
    last: str | None = get_last_checkpoint(output) if Path(output).is_dir() else None
    if last is None:
        raise ConfigError(
            f"--resume_from_checkpoint true: no checkpoint in the output folder {output!r}"
        )
    return last
