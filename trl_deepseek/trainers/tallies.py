"""What a run has added up since it last logged, kept with a checkpoint.

transformers and TRL begin these anew when a run is resumed, so that its first log would be the mean
of other steps than the undisturbed run's. One JSON file per process, whose numbers come back to the
last bit.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FILE = "tallies_{}.json"


def write(trainer: Any, folder: Path, rank: int) -> None:
    """Write the sums of a trainer into a checkpoint's folder."""
    sums = {
        "loss_since_log": trainer._tr_loss.item(),
        "loss_before": trainer._total_loss_scalar,
        "last_logged": trainer._globalstep_last_logged,
        "first_step": trainer._first_step,
        "metrics": {name: list(values) for name, values in trainer._metrics["train"].items()},
        "train_tokens": trainer._total_train_tokens,
        "evaluation_due": trainer._evaluation_due,
    }
    text = json.dumps(sums, default=float)
    (folder / FILE.format(rank)).write_text(text + "\n", encoding="utf-8")


def read(trainer: Any, folder: Path, rank: int) -> None:
    """Take the sums back; nothing where a checkpoint has none, as one of TRL's."""
    file = folder / FILE.format(rank)
    if not file.is_file():
        return
    sums = json.loads(file.read_text(encoding="utf-8"))
    trainer._tr_loss += sums["loss_since_log"]
    trainer._total_loss_scalar = sums["loss_before"]
    trainer._globalstep_last_logged = sums["last_logged"]
    trainer._first_step = sums["first_step"]
    trainer._metrics["train"].update(sums["metrics"])
    trainer._total_train_tokens = sums["train_tokens"]
    if sums.get("evaluation_due"):  # as soon as training has begun
        trainer._evaluation_due = trainer.args.eval_on_start = True
