"""Labelled single examples: TRL's KTO trainer with the losses taken out of it.

As :mod:`trl_deepseek.trainers.dpo`, for losses that ask of each completion whether it is desirable.
Pairs are welcome: they are taken apart and dealt out so that every batch holds both classes, where
TRL makes runs of a thousand of one class.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import trl
from trl.trainer.utils import FusedCausalLMOutput

from trl_deepseek.data import preferences
from trl_deepseek.losses import BoundLoss
from trl_deepseek.losses.plan import plan
from trl_deepseek.trainers.configs import KTOConfig
from trl_deepseek.trainers.inputs import Inputs, find, read_conversations
from trl_deepseek.trainers.preference_base import PreferenceTrainer, Scorer
from trl_deepseek.trainers.reference import reference_for
from trl_deepseek.types import UnpairedLogps

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from trl_deepseek.lm_head import HeadOutput

logger = logging.getLogger(__name__)

NOT_FOR_THE_MODEL = ("completion_mask", "label", "ref_logps", "ref_KL_logps")
MOVED = "KL_"  # how the names of completions begin that were moved on by a row
WEIGHTS = ("desirable_weight", "undesirable_weight")


class KTOTrainer(PreferenceTrainer, trl.KTOTrainer):
    """Drop-in for ``trl.KTOTrainer``; see it for the arguments.

    ``args.loss_type`` may name any registered loss on labelled singles; ``model`` may also be the
    name of an embedded model. Class weights that are not given are set from the counts.

    Attributes:
        loss: The loss of this run with its options.

    Raises:
        UnknownName: No plugin registers the loss, model or template.
        ConfigError: An option does not fit the loss, the loss is not one on singles, or the batch
            is too small for its estimate of the KL.
        DataError: The dataset holds neither singles nor pairs.
    """

    CONFIG = (KTOConfig, trl.KTOConfig)

    def __init__(
        self,
        model: str | PreTrainedModel | Inputs,
        ref_model: PreTrainedModel | None = None,
        args: trl.KTOConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model, Inputs):
            model = self.check(model, args, train_dataset, eval_dataset, processing_class, **kwargs)
            kwargs = {}
        self.loss: BoundLoss = model.parts
        ref_model = reference_for(model, ref_model, needed=self.loss.needs_reference)
        # TRL decides by the name whether its batches carry completions of other rows.
        args = model.args
        name, args.loss_type = args.loss_type, "kto" if self.loss.loss.kl else "apo_zero_unpaired"
        super().__init__(model, ref_model=ref_model, data_collator=data_collator, **kwargs)
        self.args.loss_type = self.loss_type = name

    @classmethod
    def _check(cls, inputs: Inputs) -> None:
        args = inputs.args
        found = plan(args, inputs.registry)
        inputs.each_split(lambda rows, split: preferences.either(rows, args, split))
        find(inputs)
        inputs.once_checked = _singles  # until then a row has the number that it has in the file
        read_conversations(inputs)
        inputs.parts = loss = _weighted(found.losses[0], args, inputs.train_dataset)
        found.settle(args)
        for option in set(WEIGHTS) & set(loss.options):
            setattr(args, option, loss.options[option])
        inputs.advise([loss], general=loss.needs_reference)

    def _compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool) -> Any:
        """The mean loss of a batch of B labelled examples."""
        mode = "train" if self.model.training else "eval"
        mask = inputs["completion_mask"][:, 1:]  # (B, T-1)
        passed = self._model_inputs(inputs)
        if self.aux_loss_enabled:
            passed["output_router_logits"] = True
        joined = self._joined(model, inputs, passed)
        if joined is not None:
            scored, twins = joined
            moved: Tensor | None = twins.logps.detach().sum(dim=1)
        else:
            moved = self._moved_logps(model, inputs)
            labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
            scored = self.token_logps(model, labels=labels, **passed)
        reference, ref_moved = self._reference_logps(inputs)
        kl = None
        if moved is not None and ref_moved is not None:
            estimate = (moved - ref_moved).mean().detach()
            kl = self.accelerator.gather_for_metrics(estimate).mean().clamp(min=0)
        logps = UnpairedLogps(
            completion=(scored.logps * mask).sum(dim=1),
            ref_completion=reference,
            label=torch.as_tensor(inputs["label"], dtype=torch.bool, device=mask.device),
            length=mask.sum(dim=1),
            kl=kl,
        )
        values, metrics = self.loss(logps)
        loss = self._with_aux_loss(mode, values.mean(), scored)
        self._record_singles(mode, logps, metrics)
        self._record_tokens(mode, inputs["attention_mask"])
        self._record_desirable_accuracy(mode, scored, logps.label, mask)
        if not return_outputs:
            return loss
        with torch.no_grad():
            return loss, model(**passed, use_cache=False)

    def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
        """The reference's log-probs of completions and of those moved on by a row, each (B,)."""
        kept: list[HeadOutput] = []

        def score(*, input_ids: Tensor, **given: Any) -> Any:
            # TRL hands on the tokens alone, without images
            moved = input_ids is inputs.get(f"{MOVED}input_ids")
            if kept:
                return FusedCausalLMOutput(log_probs=kept.pop().logps)
            joined = None if moved else self._joined(model, inputs, self._model_inputs(inputs))
            if joined is not None:
                kept.append(joined[1])
                return FusedCausalLMOutput(log_probs=joined[0].logps)
            rest = self._moved_inputs(inputs) if moved else self._model_inputs(inputs)
            return Scorer(self, model)(**{**rest, **given, "input_ids": input_ids})

        return super().compute_ref_log_probs(score, inputs)

    def _rows(self, dataset: Any, split: str) -> Any:
        return preferences.either(dataset, self.args, split)

    def _model_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in inputs.items()
            if name not in NOT_FOR_THE_MODEL and not name.startswith(MOVED)
        }

    def _moved_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What the model is given of completions moved on by a row; the rest is the row's own."""
        moved = {
            name.removeprefix(MOVED): value
            for name, value in inputs.items()
            if name.startswith(MOVED) and name != f"{MOVED}completion_mask"
        }
        return {**self._model_inputs(inputs), **moved}

    def _joined(
        self, model: Any, inputs: dict[str, Any], passed: dict[str, Any]
    ) -> tuple[HeadOutput, HeadOutput] | None:
        """Completions and those moved on by a row, behind the same prompts in one pass.

        None where there is no KL, where it would cost more than two passes, and where it would need
        more memory than a batch of rows of ``max_length``.
        """
        if not self.loss.loss.kl:
            return None
        batches = []
        for beginning in ("", MOVED):
            ids, mask = (inputs[f"{beginning}{name}"] for name in ("input_ids", "completion_mask"))
            batches.append(
                {
                    "input_ids": ids,
                    "attention_mask": inputs[f"{beginning}attention_mask"],
                    "labels": ids.masked_fill(mask == 0, -100),
                }
            )
        rest = {n: value for n, value in passed.items() if n not in batches[0]}
        rows, width = batches[0]["input_ids"].shape
        return self._prefix_sharing.joined_logps(
            model,
            *batches,
            limit=rows * (self.args.max_length or width),
            noised=self.embedding_noise is not None,
            **rest,
        )

    def _moved_logps(self, model: Any, inputs: dict[str, Any]) -> Tensor | None:
        """The policy's log-probs of completions moved on by a row, (B,); None without a KL."""
        if not self.loss.loss.kl:
            return None
        mask = inputs[f"{MOVED}completion_mask"]
        labels = inputs[f"{MOVED}input_ids"].masked_fill(mask == 0, -100)
        with torch.no_grad():
            scored = self.token_logps(model, labels=labels, **self._moved_inputs(inputs))
        return scored.logps.sum(dim=1)

    def _reference_logps(self, inputs: dict[str, Any]) -> tuple[Tensor | None, Tensor | None]:
        if not self.loss.needs_reference:
            return None, None
        if self.precompute_ref_logps:
            return inputs["ref_logps"], inputs.get("ref_KL_logps")
        found: tuple[Tensor | None, Tensor | None] = self.compute_ref_log_probs(
            self._reference_host, inputs
        )
        return found

    def _record_singles(self, mode: str, logps: UnpairedLogps, reported: dict[str, Tensor]) -> None:
        """Metrics by TRL's names: means over each class, of all processes; then the loss's own."""
        rewards = reported.pop("rewards", None)
        if rewards is None:
            has_reference = logps.ref_completion is not None
            rewards = self.beta * (logps.ratio if has_reference else logps.completion)
        sums = torch.stack([torch.ones_like(rewards), rewards, logps.completion]).detach().float()
        means = {}
        for name, members in (("chosen", logps.label), ("rejected", ~logps.label)):
            total = self.accelerator.gather((sums * members).sum(dim=1)).view(-1, 3).sum(dim=0)
            count, reward, logp = total.tolist()
            if count:
                means[name] = reward / count
                self._metrics[mode][f"rewards/{name}"].append(reward / count)
                self._metrics[mode][f"logps/{name}"].append(logp / count)
        if len(means) == 2:
            self._metrics[mode]["rewards/margins"].append(means["chosen"] - means["rejected"])
        if logps.kl is not None:
            self._metrics[mode]["kl"].append(logps.kl.item())
        for name, values in reported.items():
            self._record(mode, name, values)

    def _record_desirable_accuracy(
        self, mode: str, scored: HeadOutput, label: Tensor, mask: Tensor
    ) -> None:
        self._record_token_accuracy(mode, scored.correct, mask * label[:, None])


def _singles(dataset: Any, source: str) -> Any:
    return preferences.dealt(preferences.tell(dataset, source), source)


def _weighted(loss: BoundLoss, args: Any, dataset: Any) -> BoundLoss:
    """The loss with class weights from the counts, where it has them and they are not given.

    Args:
        loss: Bound to the config's options.
        args: The config as the user wrote it.
        dataset: Labelled singles.
    """
    if not hasattr(dataset, "__len__"):
        return loss
    desirable = sum(map(bool, dataset["label"]))
    undesirable = len(dataset) - desirable
    if not desirable or not undesirable:
        logger.warning(
            "all %d examples are %s: the loss tells the two apart and learns little from one; add "
            "%s ones, or use sft",
            *(
                len(dataset),
                *(("desirable", "undesirable") if desirable else ("undesirable", "desirable")),
            ),
        )
    if not set(WEIGHTS) <= set(loss.options):
        return loss
    kwargs = getattr(args, "loss_kwargs", None) or {}
    kwargs = kwargs.get(loss.name, kwargs)
    given = [kwargs.get(name, getattr(args, name, None)) for name in WEIGHTS]
    weights = preferences.class_weights(desirable, undesirable, (given[0], given[1]))
    if desirable != undesirable and desirable and undesirable:
        logger.warning(
            "%d desirable and %d undesirable examples: weights %.4g and %.4g",
            desirable,
            undesirable,
            *weights,
        )
    return replace(loss, options={**loss.options, **dict(zip(WEIGHTS, weights, strict=True))})


__all__ = ["KTOConfig", "KTOTrainer"]
