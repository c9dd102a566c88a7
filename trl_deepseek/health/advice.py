"""Says what goes wrong in a run, once each: the symptoms, and a learning rate out of range."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from transformers import TrainerCallback

from trl_deepseek.health.symptoms import SYMPTOMS, Series, Symptom

logger = logging.getLogger(__name__)


class Advice(TrainerCallback):
    """Looks at each line of the log.

    Args:
        weights: The weight of each reward now, by name.
        normalized: As :class:`Series` has it.
        beta: Likewise.
        metrics: Likewise.
    """

    def __init__(
        self,
        weights: Callable[[], Mapping[str, float]],
        normalized: bool,
        beta: float | None,
        metrics: Mapping[str, bool] = MappingProxyType({}),
    ) -> None:
        self.weights = weights
        self.run = Series(normalized=normalized, beta=beta, metrics=metrics)
        self.unsaid: list[Symptom] = list(SYMPTOMS)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A run that goes on knows what it logged before."""
        self.run.values.clear()
        for record in state.log_history:
            self.run.add(record)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Warn of what shows for the first time; one process speaks for all."""
        if not state.is_world_process_zero or not logs:
            return
        self.run.add(logs)
        self.run.weights = self.weights()
        for symptom in list(self.unsaid):
            message = symptom(self.run)
            if message is not None:
                self.unsaid.remove(symptom)
                logger.warning("step %d: %s", state.global_step, message)
