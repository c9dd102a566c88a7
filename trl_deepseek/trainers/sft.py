"""Supervised fine-tuning: TRL's trainer with models, templates and noise by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trl

from trl_deepseek import chat
from trl_deepseek.trainers.base import PluginTrainer
from trl_deepseek.trainers.configs import SFTConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SFTTrainer(PluginTrainer, trl.SFTTrainer):
    """Drop-in for ``trl.SFTTrainer``; see it for the arguments.

    ``model`` may also be the name of an embedded model. With a registered chat template the loss
    is on what the assistant generates, unless ``args.assistant_only_loss`` says otherwise.
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: trl.SFTConfig | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else SFTConfig()
        model, tokenizer = self._resolve_model(model, args, processing_class)
        if args.assistant_only_loss is None:
            sample = next(iter(train_dataset)) if train_dataset is not None else {}
            args.assistant_only_loss = self.template_name is not None and "messages" in sample
        super().__init__(
            model,
            args=args,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            **kwargs,
        )
        chat.set_stop_tokens(self.model, tokenizer)


__all__ = ["SFTConfig", "SFTTrainer"]
