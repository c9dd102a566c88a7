"""GRPO: TRL's trainer with models, templates and rewards by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trl

from trl_deepseek import chat, rewards
from trl_deepseek.trainers.base import PluginTrainer
from trl_deepseek.trainers.configs import GRPOConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class GRPOTrainer(PluginTrainer, trl.GRPOTrainer):
    """Drop-in for ``trl.GRPOTrainer``; see it for the arguments.

    Each of ``reward_funcs`` may also be a registered name, ``file.py:function`` or
    ``module.function``; ``model`` may also be the name of an embedded model.

    Raises:
        UnknownName: No plugin registers that reward, model or template.
        DataError: A reward needs a column that the dataset does not have.
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        reward_funcs: Any = None,
        args: trl.GRPOConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else GRPOConfig()
        model, tokenizer = self._resolve_model(model, args, processing_class)
        functions = rewards.resolve(reward_funcs, self.registry)
        if train_dataset is not None:
            rewards.check_columns(functions, train_dataset.column_names)
        prefix = chat.generation_prefix(tokenizer)
        super().__init__(
            model,
            reward_funcs=[
                rewards.as_batch(f, generation_prefix=prefix) if rewards.is_function(f) else f
                for f in functions
            ],
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            **kwargs,
        )
        chat.set_stop_tokens(self.model, tokenizer)


__all__ = ["GRPOConfig", "GRPOTrainer"]
