"""Preference pairs: TRL's DPO trainer with the losses taken out of it.

TRL's ``_compute_loss`` is a forward, a reference forward and a chain of formulas. Here it is the
two passes, then whatever ``loss_type`` names. With a setting that is written into TRL's formulas,
TRL's method does it all; see :mod:`trl_deepseek.losses.plan`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import trl

from trl_deepseek import lm_head
from trl_deepseek.data import preferences
from trl_deepseek.losses.plan import LossPlan, plan
from trl_deepseek.trainers.configs import DPOConfig
from trl_deepseek.trainers.inputs import Inputs, find, read_conversations
from trl_deepseek.trainers.preference_base import PreferenceTrainer, Scorer
from trl_deepseek.trainers.reference import reference_for
from trl_deepseek.types import PairLogps

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trl_deepseek.lm_head import HeadOutput

NOT_FOR_THE_MODEL = ("completion_mask", "ref_chosen_logps", "ref_rejected_logps")


class DPOTrainer(PreferenceTrainer, trl.DPOTrainer):
    """Drop-in for ``trl.DPOTrainer``; see it for the arguments.

    ``args.loss_type`` may name any registered loss on pairs, or several with ``args.loss_weights``;
    ``model`` may also be the name of an embedded model. Losses without a reference load none. A
    model in memory is copied as its own reference.

    Attributes:
        plan: The losses of this run with their options and weights.

    Raises:
        UnknownName: No plugin registers the loss, model or template.
        ConfigError: An option does not fit the loss, or the loss is not one on pairs.
        DataError: The dataset has no pairs.
    """

    CONFIG = (DPOConfig, trl.DPOConfig)

    def __init__(
        self,
        model: str | PreTrainedModel | Inputs,
        ref_model: PreTrainedModel | None = None,
        args: trl.DPOConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model, Inputs):
            model = self.check(model, args, train_dataset, eval_dataset, processing_class, **kwargs)
            kwargs = {}
        self.plan: LossPlan = model.parts
        ref_model = reference_for(model, ref_model, needed=self.plan.needs_reference)
        super().__init__(model, ref_model=ref_model, data_collator=data_collator, **kwargs)

    @classmethod
    def _check(cls, inputs: Inputs) -> None:
        args = inputs.args
        inputs.parts = losses = plan(args, inputs.registry)
        losses.settle(args)
        inputs.each_split(lambda rows, split: preferences.pairs(rows, args, losses.names, split))
        find(inputs)
        inputs.advise(losses.losses, general=losses.needs_reference)
        inputs.once_checked = preferences.tell
        read_conversations(inputs)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        """The mean loss of a batch ``[chosen; rejected]`` of B pairs."""
        if not self.plan.losses:
            models = [each for each in (self.model, self.ref_model) if each is not None]
            with lm_head.balanced_by_trl(*map(lm_head.unwrap, models)):
                return super()._compute_loss(model, inputs, return_outputs)
        mode = "train" if self.model.training else "eval"
        mask = inputs["completion_mask"][:, 1:]  # (2B, T-1)
        scored = self.token_logps(model, labels=self._labels(inputs), **self._model_inputs(inputs))
        logps = self._pair_logps(scored, inputs)
        loss, metrics = self.plan(logps)
        loss = self._with_aux_loss(mode, loss, scored)
        self._record_pairs(mode, logps, metrics)
        self._record_tokens(mode, inputs["attention_mask"])
        self._record_token_accuracy(mode, scored.correct.chunk(2)[0], mask.chunk(2)[0])
        if not return_outputs:
            return loss
        with torch.no_grad():
            return loss, model(**self._model_inputs(inputs), use_cache=False)

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """The reference's log-probs of chosen and rejected, each (B,), by ``token_logps``."""
        return super().compute_ref_log_probs(Scorer(self, model), inputs)

    def _rows(self, dataset: Any, split: str) -> Any:
        return preferences.pairs(dataset, self.args, self.plan.names, split)

    def _model_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in inputs.items() if name not in NOT_FOR_THE_MODEL}
        if self.aux_loss_enabled:
            kept["output_router_logits"] = True
        return kept

    def _labels(self, inputs: dict[str, Any]) -> Tensor:
        """Completions, and the prompts of the chosen rows where a loss asks for them; (2B, T)."""
        scored = inputs["completion_mask"]
        if self.plan.prompt_nll:
            chosen = inputs["attention_mask"].chunk(2)[0]
            scored = torch.cat([chosen, scored.chunk(2)[1]])
        labels: Tensor = inputs["input_ids"].masked_fill(scored == 0, -100)
        return labels

    def _pair_logps(self, scored: HeadOutput, inputs: dict[str, Any]) -> PairLogps:
        mask = inputs["completion_mask"][:, 1:]
        chosen, rejected = self._summed(scored.logps, mask).chunk(2)
        chosen_length, rejected_length = mask.sum(dim=1).chunk(2)
        reference: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.plan.needs_reference:
            if self.precompute_ref_logps:
                reference = (inputs["ref_chosen_logps"], inputs["ref_rejected_logps"])
            else:
                reference = self.compute_ref_log_probs(self._reference_host, inputs)
        nll = None
        if self.plan.prompt_nll:
            rows = inputs["attention_mask"].chunk(2)[0][:, 1:]
            nll = -scored.logps.chunk(2)[0].sum(dim=1) / rows.sum(dim=1).clamp(min=1)
        return PairLogps(chosen, rejected, *reference, chosen_length, rejected_length, nll)

    def _summed(self, logps: Tensor, mask: Tensor) -> Tensor:
        """Sums over completions, (2B,); tokens beyond the shorter of a pair count ``ld_alpha``."""
        if self.ld_alpha is None:
            return (logps * mask).sum(dim=1)
        lengths = mask.sum(dim=1)
        shorter = torch.minimum(*lengths.chunk(2)).repeat(2)[:, None]
        weight = torch.where(mask.cumsum(dim=1) <= shorter, 1.0, self.ld_alpha)
        return (logps * mask * weight).sum(dim=1)

    def _record_pairs(self, mode: str, logps: PairLogps, reported: dict[str, Tensor]) -> None:
        """Metrics by TRL's names, then those that the losses returned."""
        chosen = reported.pop("rewards/chosen", None)
        rejected = reported.pop("rewards/rejected", None)
        if chosen is None or rejected is None or len(self.plan.names) > 1:
            has_reference = logps.ref_chosen is not None
            chosen = self.beta * (logps.chosen_ratio if has_reference else logps.chosen)
            rejected = self.beta * (logps.rejected_ratio if has_reference else logps.rejected)
        self._record(mode, "rewards/chosen", chosen)
        self._record(mode, "rewards/rejected", rejected)
        self._record(mode, "rewards/accuracies", chosen > rejected)
        self._record(mode, "rewards/margins", chosen - rejected)
        self._record(mode, "logps/chosen", logps.chosen)
        self._record(mode, "logps/rejected", logps.rejected)
        for name, values in reported.items():
            self._record(mode, name, values)


__all__ = ["DPOConfig", "DPOTrainer"]
