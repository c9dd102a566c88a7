"""Reward models: TRL's trainer with models, templates and losses by name.

A reward model is the language model's backbone with one linear score read at the last token. TRL
writes the Bradley-Terry loss into ``compute_loss``; here that method is replaced by one that scores
the pairs, hands the scores to the named loss, and logs.
"""

from __future__ import annotations

import copy
import json
import logging
from typing import TYPE_CHECKING, Any

import torch
import trl

from trl_deepseek import data, models
from trl_deepseek.adapters import lora
from trl_deepseek.data import lengths, preferences
from trl_deepseek.losses import BoundLoss
from trl_deepseek.losses.plan import plan
from trl_deepseek.trainers.base import PluginTrainer
from trl_deepseek.trainers.configs import RewardConfig
from trl_deepseek.trainers.inputs import Inputs, find, read_conversations
from trl_deepseek.trainers.measuring import TOKENS
from trl_deepseek.types import PairRewards

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SCORE_HEAD = "score"
"""What ``transformers`` calls the head of a sequence classifier built on a language model."""


class RewardTrainer(PluginTrainer, trl.RewardTrainer):
    """Drop-in for ``trl.RewardTrainer``; see it for the arguments.

    ``args.loss_type`` names the loss, and ``model`` may be the name of an embedded model. With
    ``peft_config`` the score head is trained and saved beside the adapter, unless it is one of the
    adapter's targets. Rows longer than ``args.max_length`` are left out, as TRL does, but counted:
    see ``left_out``.

    Attributes:
        loss: The loss that ``args.loss_type`` names, with its options.
        left_out: For each dataset, the numbers of the rows that were too long.

    Raises:
        UnknownName: No plugin registers that loss, model or template.
        ConfigError: The loss has no such option, or is not one on scores.
        DataError: The dataset has no pairs, or all of them are too long.
    """

    CONFIG = (RewardConfig, trl.RewardConfig)

    def __init__(
        self,
        model: str | PreTrainedModel | Inputs,
        args: trl.RewardConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: Any = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(model, Inputs):
            model = self.check(
                model,
                args,
                train_dataset,
                eval_dataset,
                processing_class,
                peft_config=peft_config,
                **kwargs,
            )
            kwargs = {}
        self.loss: BoundLoss = model.parts
        if model.embedded is not None:
            model.model = models.as_reward_model(model.model, model.args.seed)
        peft_config = kwargs.pop("peft_config", model.options.get("peft_config"))
        super().__init__(
            model,
            data_collator=data_collator,
            peft_config=None if peft_config is None else with_score_head(peft_config),
            **kwargs,
        )
        for name, parameter in self.model.named_parameters():
            # TRL puts what is trained on a quantized model into bfloat16, where the small steps of
            # a head that is trained whole are lost, and which does not run without autocast
            if ".modules_to_save." in name:
                parameter.data = parameter.data.float()

    @classmethod
    def _check(cls, inputs: Inputs) -> None:
        inputs.parts = loss = plan(inputs.args, inputs.registry).losses[0]
        inputs.each_split(lambda rows, split: _pairs(rows, split, inputs.args, loss.name))
        find(inputs)
        inputs.advise([loss])
        read_conversations(inputs)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The mean loss of a batch of pairs; TRL's method with the loss taken out of it."""
        mode = "train" if self.model.training else "eval"
        rewards, outputs = self.score_pairs(model, inputs)
        values, metrics = self.loss(rewards)
        loss = values.mean()
        if self.args.center_rewards_coefficient is not None:
            centre = (rewards.chosen + rewards.rejected).square().mean()
            loss = loss + self.args.center_rewards_coefficient * centre
        if mode == "train":
            tokens = self.accelerator.gather_for_metrics(inputs["attention_mask"].sum()).sum()
            self._total_train_tokens += int(tokens) // self._tp_size
        self._metrics[mode]["num_tokens"] = [self._total_train_tokens]
        self._log_scores(mode, rewards, metrics)
        return (loss, outputs) if return_outputs else loss

    def score_pairs(self, model: Any, inputs: dict[str, Any]) -> tuple[PairRewards, Any]:
        """The one pass over a batch: scores of its pairs, and the model's outputs.

        Args:
            model: The model as the training loop holds it, perhaps wrapped.
            inputs: ``input_ids`` and ``attention_mask`` (2B, T), chosen rows before rejected ones,
                and ``margin`` (B,) where the dataset has one.
        """
        margin = inputs.get("margin")
        rest = {name: value for name, value in inputs.items() if name != "margin"}
        noised = self.embedding_noise is not None
        outputs = self._prefix_sharing.row_scores(model, noised=noised, **rest)
        chosen, rejected = outputs.logits.squeeze(-1).float().chunk(2)
        return PairRewards(chosen, rejected, margin), outputs

    def _log_scores(self, mode: str, rewards: PairRewards, extra: dict[str, Tensor]) -> None:
        """Metrics over all processes: TRL's names, and those of the means it does not log."""
        with torch.no_grad():
            pairs = torch.stack([rewards.chosen, rewards.rejected], dim=1)
            chosen, rejected = self.accelerator.gather_for_metrics(pairs).unbind(dim=1)
            lead = chosen - rejected
            found = {
                "min_reward": torch.minimum(chosen.min(), rejected.min()),
                "mean_reward": (chosen.mean() + rejected.mean()) / 2,
                "max_reward": torch.maximum(chosen.max(), rejected.max()),
                "accuracy": (lead > 0).float().mean(),
                "margin": lead.mean(),
                "chosen_reward_mean": chosen.mean(),
                "rejected_reward_mean": rejected.mean(),
                "reward_margin": lead.mean(),
            }
            for name, value in extra.items():
                found[name] = self.accelerator.gather_for_metrics(value.detach().float()).mean()
        for name, value in found.items():
            self._metrics[mode][name].append(value.item())

    def _rows(self, dataset: Any, split: str) -> Any:
        return _pairs(dataset, split, self.args, self.loss.name)

    def _prepare_dataset(
        self, dataset: Any, processing_class: Any, args: Any, dataset_name: str
    ) -> Any:
        """TRL's, which leaves out rows that are too long without a word; say how many."""
        limit = args.max_length
        whole = copy.copy(args)
        whole.max_length = None
        if isinstance(next(iter(dataset)).get("prompt"), list):
            dataset = dataset.map(_tokenized, fn_kwargs={"tokenizer": processing_class})
        prepared = super()._prepare_dataset(dataset, processing_class, whole, dataset_name)
        if limit is None:
            return prepared
        source = data.source_of(dataset, f"the {dataset_name} dataset")
        kept, self.left_out[dataset_name] = lengths.short_enough(prepared, source, limit)
        return kept


def _pairs(dataset: Any, split: str, args: Any, loss: str) -> Any:
    """Pairs; a dataset that is tokenized already stays as it is."""

    def read(part: Any) -> Any:
        if TOKENS.intersection(getattr(part, "column_names", None) or ()):
            return part
        part = preferences.pairs(part, args, [loss], split, needs_prompt=False)
        return data.check_margin(part, data.source_of(part, split))

    return data.each(dataset, read)


def _tokenized(row: dict[str, Any], tokenizer: Any) -> dict[str, list[int]]:
    """The tokens of both conversations of a row with a prompt.

    As TRL's, which writes prompt and answer into one column first: Arrow has no type for contents
    of which one is text and the other parts, or for arguments that are JSON here and not there.
    """
    tools = row.get("tools")
    options = {
        "tools": json.loads(tools) if isinstance(tools, str) else tools,
        **(row.get("chat_template_kwargs") or {}),
    }
    return {
        f"{column}_ids": tokenizer.apply_chat_template(
            [*row["prompt"], *row[column]], tokenize=True, return_dict=True, **options
        )["input_ids"]
        for column in preferences.COMPLETIONS
    }


def with_score_head(peft_config: Any) -> Any:
    """A copy of the config, for an adapter that is trained together with the score head.

    peft adds the head by itself only when the task type says so, and a head that is left out stays
    as random as it began. A config that names the head among its targets says what it wants.
    """
    changed = copy.deepcopy(peft_config)  # TRL adds to its lists
    if lora.targets(changed, SCORE_HEAD):
        logger.warning(
            "the LoRA config has %r among its targets: the random weights beneath are neither "
            "trained nor saved with the adapter; modules_to_save=[%r] would do both",
            SCORE_HEAD,
            SCORE_HEAD,
        )
        return changed
    saved = list(getattr(changed, "modules_to_save", None) or ())
    if changed.task_type != "SEQ_CLS" and SCORE_HEAD not in saved:
        logger.warning(
            "the score head begins random: it is trained whole and saved beside the adapter, "
            "as if the LoRA config said task_type='SEQ_CLS', modules_to_save=%s",
            [*saved, SCORE_HEAD],
        )
    changed.task_type = "SEQ_CLS"
    if hasattr(changed, "modules_to_save"):
        changed.modules_to_save = [*saved, *([] if SCORE_HEAD in saved else [SCORE_HEAD])]
    return changed


__all__ = ["RewardConfig", "RewardTrainer"]
