"""What the two preference trainers share: the one pass, the reference, and the metrics.

``token_logps`` is the only place where a batch meets a model. TRL's own methods for the reference
(precomputed or not, by switching adapters, with checkpointing off) are kept: they are handed
:class:`Scorer` in place of a model, which answers their call through ``token_logps``.
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

from trl.trainer.utils import FusedCausalLMOutput

from trl_deepseek import data
from trl_deepseek.data import lengths
from trl_deepseek.errors import RunError
from trl_deepseek.trainers.base import PluginTrainer
from trl_deepseek.trainers.reference import NoReference

if TYPE_CHECKING:
    from torch import Tensor

    from trl_deepseek.lm_head import HeadOutput

logger = logging.getLogger(__name__)


class Scorer:
    """A model, as TRL's methods call one, that answers with what ``token_logps`` finds."""

    def __init__(self, trainer: PreferenceTrainer, model: Any) -> None:
        self.trainer = trainer
        self.model = model

    def __call__(self, *, fused_lm_head: bool, **inputs: Any) -> FusedCausalLMOutput:
        """Log-probs of ``inputs["labels"]``, (B, T-1)."""
        return FusedCausalLMOutput(log_probs=self.trainer.token_logps(self.model, **inputs).logps)


class PreferenceTrainer(PluginTrainer):
    """Mixin in front of TRL's preference trainers; see the module's docstring."""

    accelerator: Any
    args: Any
    model: Any
    _metrics: dict[str, dict[str, list[float]]]
    _reference: Any = None

    def token_logps(self, model: Any, *, labels: Tensor, **inputs: Any) -> HeadOutput:
        """The pass that turns a batch into log-probs: of each label, (B, T-1), from one forward.

        The policy and its reference both go through here. What rows begin with in common is
        encoded once, as ``args.prefix_sharing`` says.

        Args:
            model: Policy or reference, as the training loop holds it, perhaps wrapped.
            labels: Tokens to score, (B, T); -100 where nothing is scored.
            **inputs: ``input_ids`` and ``attention_mask``, (B, T), and what the model takes else.
        """
        inputs.pop("use_cache", None)
        noised = self.embedding_noise is not None
        return self._prefix_sharing.token_logps(model, labels=labels, noised=noised, **inputs)

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, dataset_name: str
    ) -> Any:
        """TRL's, which leaves out and cuts what is too long without a word; say how much."""
        limit = args.max_length
        whole = copy.copy(args)
        whole.max_length = None
        prepared = super()._prepare_dataset(  # type: ignore[misc]
            dataset, processing_class, whole, dataset_name
        )
        if limit is None:
            return prepared
        source = data.source_of(dataset, f"the {dataset_name} dataset")
        keep_end = getattr(args, "truncation_mode", "keep_start") == "keep_end"
        kept, self.left_out[dataset_name] = lengths.completions_left(
            prepared, source, limit, keep_end=keep_end
        )
        return kept

    @property
    def ref_model(self) -> Any:
        """The reference model; None where there is none or an adapter is switched instead."""
        return self._reference

    @ref_model.setter
    def ref_model(self, model: Any) -> None:
        # TRL prepares whatever it finds here for the devices; a stand-in must not get that far.
        self._reference = None if isinstance(model, NoReference) else model

    @property
    def _reference_host(self) -> Any:
        """The model that gives the reference's log-probs: it, or the policy with other adapters."""
        return self.model if self.ref_model is None else self.ref_model

    def _record(self, mode: str, name: str, values: Tensor) -> None:
        """Log the mean of ``values`` over the batch and all processes."""
        gathered = self.accelerator.gather(values.detach().float().reshape(-1))
        self._metrics[mode][name].append(gathered.mean().item())

    def _record_tokens(self, mode: str, attention_mask: Tensor) -> None:
        if mode == "train":
            tokens = self.accelerator.gather_for_metrics(attention_mask.sum()).sum().item()
            self._total_train_tokens += tokens // self._tp_size  # type: ignore[attr-defined]
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]  # type: ignore[attr-defined]

    def _record_token_accuracy(self, mode: str, correct: Tensor, mask: Tensor) -> None:
        """Share of the tokens in ``mask`` that no other token beats, over all processes."""
        hits = self.accelerator.gather_for_metrics((correct & mask.bool()).sum()).sum()
        tokens = self.accelerator.gather_for_metrics(mask.sum()).sum()
        self._metrics[mode]["mean_token_accuracy"].append((hits / tokens.clamp(min=1)).item())

    def _with_aux_loss(self, mode: str, loss: Tensor, scored: HeadOutput) -> Tensor:
        """Add the experts' load-balancing loss, where it is asked for."""
        if not self.aux_loss_enabled:  # type: ignore[attr-defined]
            return loss
        if scored.aux_loss is None:
            raise RunError(
                f"router_aux_loss_coef is set, but {type(self.model).__name__} returns no router "
                "logits to balance\n  set router_aux_loss_coef to 0"
            )
        self._record(mode, "aux_loss", scored.aux_loss)
        return loss + self.router_aux_loss_coef * scored.aux_loss  # type: ignore[attr-defined]
