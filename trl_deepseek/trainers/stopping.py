"""A run that was asked to stop: the step is finished, a checkpoint saved, and all ranks agree.

An evaluation is not waited for: it is broken off, and made when the run goes on.
"""

from __future__ import annotations

import contextlib
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

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Break an evaluation off; one process alone has done so already.

        Raises:
            Interrupted: By the signal.
        """
        if by := self._agreed(args):
            raise stopping.Interrupted(by)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A signal that came behind the last batch of an evaluation takes part in the step."""
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


class StoppableEvaluation:
    """Mixin in front of a TRL trainer: a signal breaks evaluations off, and the step is saved."""

    _evaluation_due = False  # of the step that the run goes on from

    def _evaluate(self: Any, trial: Any, ignore_keys: Any, skip_scheduler: bool = False) -> Any:
        """As transformers'; the evaluation that an earlier run of this one broke off counts as it.

        Raises:
            Interrupted: By a signal, once there is a checkpoint that knows what is due.
        """
        due, self._evaluation_due = self._evaluation_due, True
        alone = self.accelerator.num_processes == 1  # else all have to agree: on_prediction_step
        try:
            with stopping.at_once() if alone else contextlib.nullcontext():
                metrics = super()._evaluate(trial, ignore_keys, skip_scheduler and not due)  # type: ignore[misc]
        except stopping.Interrupted:
            if self.state.global_step and not due:
                self._save_checkpoint(self.model, trial)
            raise
        self._evaluation_due = False
        if due:
            self.args.eval_on_start = False
            self._determine_best_metric(metrics, trial)
        return metrics
