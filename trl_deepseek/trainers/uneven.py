"""Rows that do not fill the batches of several processes: which count twice, and that it is said.

Every process has to make every step, so that accelerate fills the last batch of a pass up with rows
from its beginning (``even_batches``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

logger = logging.getLogger(__name__)


def tell(trainer: Any) -> None:
    """Say of training and evaluation data which of their rows count twice; one process does."""
    args = trainer.args
    if args.world_size == 1 or args.dataloader_drop_last or not trainer.is_world_process_zero():
        return
    if hasattr(args, "num_generations"):
        return  # prompts are sampled in whole batches
    sizes = (args.per_device_train_batch_size, args.per_device_eval_batch_size)
    for dataset, size, what in zip(
        (trainer.train_dataset, trainer.eval_dataset),
        sizes,
        ("rows trained on twice in each epoch", "rows that count twice in what is logged"),
        strict=True,
    ):
        for name, rows in _tables(dataset):
            twice = -rows % (size * args.world_size)
            if twice:
                logger.warning(
                    "%s%d rows do not fill batches of %d on %d processes; %s: %d",
                    *(name, rows, size, args.world_size, what, twice),
                )


def _tables(dataset: Any) -> Iterator[tuple[str, int]]:
    """Name and rows of each table; not of a stream, which has no end that is known."""
    parts = dataset if isinstance(dataset, dict) else {"": dataset}
    for name, part in parts.items():
        if part is not None and hasattr(part, "__len__"):
            yield f"{name}: " if name else "", len(part)
