"""What looks at a run's loss, gradient and weights, and stops it before anything is lost.

A trainer tells a :class:`Watch` of each batch, loss and gradient norm. What is not finite stops the
run before the optimizer's step, so that the weights are still those of the step before, with one
message that has everything to go on with: step, rows, loss, where the batch is kept, and the last
checkpoint. Two numbers that the loop has computed anyway are read per step.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trl_deepseek.errors import NotFinite
from trl_deepseek.health import finite
from trl_deepseek.health.batches import describe, kept

FOLDER = "not_finite"  # in the output folder
REMEDY = (
    "lower the learning rate or beta, hold float16 weights in bfloat16 (Adam's epsilon is 0 in "
    "float16), or look for NaN in the weights and the data"
)


class Watch:
    """The watch over one training run.

    Args:
        losses: Names of the losses, for messages.
        output_dir: Where a batch is kept.
        tokenizer: Turns the rows of a batch into text.
        process: Number of this process.
        step: The number of optimizer steps that have been made.
        last_checkpoint: One clause about the newest whole checkpoint.
    """

    def __init__(
        self,
        losses: Sequence[str],
        output_dir: str,
        tokenizer: Any,
        process: int,
        step: Callable[[], int],
        last_checkpoint: Callable[[], str],
    ) -> None:
        self.losses = losses
        self.output_dir = output_dir
        self.tokenizer = tokenizer
        self.process = process
        self.step = step
        self.last_checkpoint = last_checkpoint
        self.batches: list[Any] = []  # since the optimizer's last step, as the model sees them

    @property
    def _loss(self) -> str:
        return f"loss {' + '.join(map(repr, self.losses))}"

    def saw(self, batch: Any) -> None:
        """A batch is about to be trained on; it is let go after the optimizer's step."""
        self.batches.append(batch)

    @contextlib.contextmanager
    def around_step(self) -> Iterator[None]:
        """Around forward and backward: what is found not finite in there is completed.

        Raises:
            NotFinite: As raised within, with step, rows and what is left.
        """
        try:
            yield
        except NotFinite as error:
            raise self._completed(str(error), self.batches[-1:], error.rows) from error

    def check_loss(self, loss: Any) -> None:
        """Stop at the loss of a batch.

        Raises:
            NotFinite: It is NaN or infinite.
        """
        value = float(loss)
        if not math.isfinite(value):
            raise NotFinite(f"{self._loss} is {value}")

    def check_gradient(self, norm: Any, scaler: Any, model: Any) -> None:
        """Stop before the optimizer's step.

        Args:
            norm: Of the gradient, over all processes; None where nobody computes it.
            scaler: Of the loss in float16, else None. It skips a step that overflowed and halves
                its scale; at a scale of 1 or less, the scale is not what makes it overflow.
            model: Whose gradients they are.

        Raises:
            NotFinite: The norm is NaN or infinite.
        """
        batches, self.batches = self.batches, []
        if norm is None or math.isfinite(float(norm)):
            return
        if scaler is not None and scaler.is_enabled() and scaler.get_scale() > 1:
            return
        gradients = (
            (name, parameter.grad)
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        )
        names = finite.not_finite(gradients)
        # Clipping by NaN has made all of them NaN, so that all of them say nothing.
        whole = len(names) == sum(p.grad is not None for p in model.parameters())
        where = "" if whole or not names else f": {finite.some(names)}"
        raise self._completed(
            f"the gradient of {self._loss} is not finite (its norm is {float(norm)}){where}",
            batches,
        )

    def check_weights(self, model: Any, optimizer: Any = None) -> None:
        """Stop before anything is saved that is not finite.

        Args:
            model: What is saved.
            optimizer: Whose state is saved beside it.

        Raises:
            NotFinite: A weight is, or a value that the optimizer keeps; names it.
        """
        names = finite.not_finite(finite.saved_tensors(model))
        what = "the weights are"
        if not names and optimizer is not None:
            names = finite.not_finite(finite.optimizer_tensors(optimizer))
            what = "the optimizer's state is"
        if names:
            raise NotFinite(
                f"{what} not finite after step {self.step()}: {finite.some(names)}\n"
                f"  nothing of it has been saved; {self.last_checkpoint()}\n"
                f"  {REMEDY}"
            )

    def _completed(
        self, message: str, batches: Sequence[Any], rows: Sequence[int] = ()
    ) -> NotFinite:
        step = self.step() + 1
        texts = [text for batch in batches for text in describe(batch, self.tokenizer)]
        chosen = [texts[row] for row in rows if row < len(texts)] or texts
        lines = [
            f"step {step}: {message}",
            *(f"  row: {text!r}" for text in chosen[: finite.SHOWN]),
            *([f"  and {len(chosen) - finite.SHOWN} more"] if len(chosen) > finite.SHOWN else ()),
            f"  {self._keep(step, batches, texts)}",
            f"  the step was not made; {self.last_checkpoint()}",
            f"  {REMEDY}",
        ]
        return NotFinite("\n".join(lines), rows)

    def _keep(self, step: int, batches: Sequence[Any], texts: Sequence[str]) -> str:
        """Keep what was trained on, as plain tensors; returns a clause about where."""
        import torch

        file = Path(self.output_dir, FOLDER, f"step-{step}-process-{self.process}.pt")
        content: Mapping[str, Any] = {
            "step": step,
            "batches": [kept(batch) for batch in batches],
            "texts": list(texts),
        }
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(content, file)
        except (OSError, RuntimeError) as error:  # how torch says that the disk is full
            return f"the batch cannot be kept in {file}: {error}"
        return f"the batch is kept in {file}"
