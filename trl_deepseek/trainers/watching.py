"""Training that is watched: what is not finite stops it, and what goes wrong slowly is said.

``WatchedTraining`` stands between ``PluginTrainer`` and what saves. It looks at what transformers
computes anyway: the loss of a batch, the norm of a gradient, and the weights that are to be saved.
"""

from __future__ import annotations

from typing import Any

from trl_deepseek import checkpoints, health
from trl_deepseek.health.advice import Advice


class WatchedTraining:
    """Mixin in front of a TRL trainer; see the module's docstring."""

    watch: health.Watch

    def _begin_watch(self: Any) -> None:
        """Once TRL's constructor is done."""
        losses = getattr(self.args, "loss_type", None) or "loss"
        folder = self.args.output_dir
        self.watch = health.Watch(
            [losses] if isinstance(losses, str) else losses,
            folder,
            self.processing_class,
            self.accelerator.process_index,
            step=lambda: self.state.global_step,
            last_checkpoint=lambda: checkpoints.newest(folder, only_model=True).last(
                "no checkpoint had been saved"
            ),
        )
        aggregation = getattr(self.args, "multi_objective_aggregation", None)
        normalized = aggregation == "normalize_then_sum"
        beta = getattr(self.args, "beta", None)
        measured = self.inputs.measures.metrics
        metrics = {f"eval_{each.name}": each.higher_is_better for each in measured}
        self.add_callback(Advice(self._weights_by_name, normalized, beta, metrics))

    def _weights_by_name(self) -> dict[str, float]:
        """What each reward counts now; nothing where there are none."""
        return {}

    def _prepare_inputs(self: Any, inputs: Any) -> Any:
        """As TRL's; what the model is trained on is what the watch would keep."""
        batch = super()._prepare_inputs(inputs)  # type: ignore[misc]
        if self.model.training:
            self.watch.saw(batch)
        return batch

    def training_step(self: Any, *args: Any, **kwargs: Any) -> Any:
        """As TRL's; a loss that is not finite stops the run."""
        with self.watch.around_step():
            loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
            self.watch.check_loss(loss)
        return loss

    def _get_grad_norm(self: Any, model: Any, grad_norm: Any = None) -> Any:
        """As transformers', which has it for the log; one that is not finite stops the run."""
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[misc]
        self.watch.check_gradient(norm, self.accelerator.scaler, model)
        return norm

    def save_model(self: Any, *args: Any, **kwargs: Any) -> None:
        """As TRL's, of weights that are finite."""
        self.watch.check_weights(self.model)
        super().save_model(*args, **kwargs)  # type: ignore[misc]

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        """As TRL's, of weights that are finite."""
        self.watch.check_weights(self.model, self.optimizer)
        super()._save_checkpoint(model, trial)  # type: ignore[misc]
