"""One line per log of a training command: what people follow, not the sixty fields of a log.

Everything that is logged stays in ``trainer_state.json`` and goes to the trackers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from transformers import PrinterCallback, ProgressCallback, TrainerCallback

# In the order in which they are shown, as patterns of names.
SHOWN = (
    "loss",
    "reward",
    "rewards/*/mean",
    "rewards/accuracies",
    "rewards/margins",
    "kl",
    "entropy",
    "mean_token_accuracy",
    "accuracy",
    "margin",
    "completions/mean_length",
    "completions/clipped_ratio",
    "frac_reward_zero_std",
    "grad_norm",
    "learning_rate",
    "epoch",
)
FAILURES = ("rewards/*/errors", "rewards/*/timeouts")  # shown where there are any
HELD_OUT = "eval_"
SHORT = {
    "completions/mean_length": "length",
    "completions/clipped_ratio": "clipped",
    "frac_reward_zero_std": "groups alike",
    "learning_rate": "lr",
    "mean_token_accuracy": "token accuracy",
}
AT_LEAST = 10  # lines of a short run whose user did not choose logging_steps
END = "train_runtime"  # the log that sums up a run, which the command says in its own words


class LogLines(TrainerCallback):
    """Prints the lines; in the place of transformers' own, which print whole logs.

    Args:
        chosen: Whether the user chose ``logging_steps``.
        metrics: Names of those that are measured at evaluations.
    """

    def __init__(self, chosen: bool, metrics: Sequence[str] = ()) -> None:
        self.chosen = chosen
        self.metrics = metrics

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log a short run more often than TRL would: every tenth step never comes in five."""
        often = max(1, state.max_steps // AT_LEAST)
        if not self.chosen and args.logging_strategy == "steps" and often < state.logging_steps:
            first = state.global_step == 1 and args.logging_first_step
            control.should_log = first or state.global_step % often == 0

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        """Print one line, above the progress bar where there is one."""
        from tqdm import tqdm

        if logs and END not in logs and state.is_world_process_zero:
            shown = line(logs, state.global_step, state.max_steps, self.metrics)
            tqdm.write(shown, file=sys.stdout)


def line(logs: dict[str, Any], step: int, last: int, metrics: Sequence[str] = ()) -> str:
    """What is shown of one log."""
    numbers = {key: value for key, value in logs.items() if isinstance(value, (int, float))}
    found = [
        f"{_name(key)} {_number(value)}"
        for pattern in (*SHOWN, *FAILURES)
        for key, value in numbers.items()
        if fnmatchcase(key.removeprefix(HELD_OUT), pattern) and (value or pattern not in FAILURES)
    ]
    # By the whole name, since a metric may be called as a reward that is logged beside it.
    found += [
        f"{key} {_number(value)}"
        for name in metrics
        for key, value in numbers.items()
        if key == f"{HELD_OUT}{name}" or key.startswith(f"{HELD_OUT}{name}/")
    ]
    return "  ".join([f"step {step:>{len(str(last))}}/{last}", *found])


def replace_printing(trainer: Any, chosen: bool) -> None:
    """Have ``trainer`` print these lines instead of its logs."""

    class Bar(ProgressCallback):
        """transformers' bar, without the logs."""

        def on_log(self, *args: Any, **kwargs: Any) -> None:
            """Left to :class:`LogLines`."""

    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(Bar())
    measured = [each.name for each in trainer.inputs.measures.metrics]
    trainer.add_callback(LogLines(chosen, measured))


def _name(key: str) -> str:
    name = key.removeprefix(HELD_OUT)
    name = SHORT.get(name, name.removeprefix("rewards/").removesuffix("/mean").replace("/", " "))
    return f"held-out {name}" if key.startswith(HELD_OUT) else name


def _number(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
