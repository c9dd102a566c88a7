"""A run that was asked to stop: the step is finished, a checkpoint saved, and all ranks agree."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed
from transformers import TrainerCallback

from trl_deepseek import stopping


class StopWhenAsked(TrainerCallback):
    """Saves and ends a run at the end of the step in which a signal arrived.

    Commands add it as the last callback. It leaves by raising
    :class:`~trl_deepseek.stopping.Interrupted` once the checkpoint is there: what transformers does
    at the end of a whole run, loading the best model and removing checkpoints, is not done.
    """

    def __init__(self) -> None:
        self._by = 0  # the signal that all ranks have agreed on

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint of this step."""
        if self._agreed(args):
            # "best" would leave it to a metric whether this step is saved
            args.save_strategy = "steps"
            control.should_save = True

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """An evaluation is finished, too, and takes part in the step."""
        self.on_step_end(args, state, control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The checkpoint is whole: stop.

        Raises:
            Interrupted: By the signal.
        """
        if by := self._agreed(args):
            raise stopping.Interrupted(by)

    def _agreed(self, args: Any) -> int:
        """The signal that any rank has got; 0 for none, and the same on all of them."""
        if not self._by:
            self._by = int(stopping.requested() or 0)
            if distributed.is_available() and distributed.is_initialized():
                mine = torch.tensor(self._by, device=args.device)
                distributed.all_reduce(mine, distributed.ReduceOp.MAX)
                self._by = int(mine)
        return self._by
