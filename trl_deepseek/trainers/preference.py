"""Preference training by the name of a loss, which decides between the two trainers."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import trl

from trl_deepseek.errors import ConfigError
from trl_deepseek.losses.plan import is_unpaired
from trl_deepseek.trainers.configs import DPOConfig, KTOConfig
from trl_deepseek.trainers.dpo import DPOTrainer
from trl_deepseek.trainers.inputs import registry_for
from trl_deepseek.trainers.kto import KTOTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def preference_trainer(
    model: str | PreTrainedModel,
    loss_type: str | list[str],
    train_dataset: Any,
    args: trl.DPOConfig | trl.KTOConfig | None = None,
    eval_dataset: Any = None,
    processing_class: Any = None,
    **kwargs: Any,
) -> DPOTrainer | KTOTrainer:
    """The trainer for a loss, on whatever preference data there is.

    Pairs are reshaped to labelled singles for a loss on singles.

    Args:
        model: As the trainers take it.
        loss_type: Registered losses.
        train_dataset: Pairs or labelled singles.
        args: Config of the trainer that the loss needs; its ``loss_type`` is this one or left out.
        eval_dataset: As the trainers take it; so is ``processing_class``.
        processing_class: The tokenizer; None for the model's own.
        **kwargs: Passed to the trainer.

    Raises:
        UnknownName: No plugin registers the loss.
        ConfigError: The config is that of the other trainer or names another loss, or an option
            does not fit.
        DataError: The loss needs pairs and there are only singles, or there is neither.
    """
    registry = registry_for(args)
    names = [loss_type] if isinstance(loss_type, str) else list(loss_type)
    unpaired = is_unpaired(names, registry)
    config_class: Any = KTOConfig if unpaired else DPOConfig
    trainer_class: Any = KTOTrainer if unpaired else DPOTrainer
    args = config_class() if args is None else copy.copy(args)
    if not isinstance(args, trl.KTOConfig if unpaired else trl.DPOConfig):
        raise ConfigError(
            f"loss {names[0]!r} needs a {config_class.__name__}, not a {type(args).__name__}"
        )
    own = [args.loss_type] if isinstance(args.loss_type, str) else list(args.loss_type)
    default = config_class.__dataclass_fields__["loss_type"]
    if own != names and own != ([default.default] if unpaired else default.default_factory()):
        raise ConfigError(
            f"loss_type is {', '.join(names)} here and {', '.join(own)} in the config\n"
            "  leave it out of the config"
        )
    args.loss_type = names[0] if unpaired else names
    outside = {name: kwargs.pop(name) for name in ("ref_model", "data_collator") if name in kwargs}
    inputs = trainer_class.check(
        model, args, train_dataset, eval_dataset, processing_class, registry=registry, **kwargs
    )
    trainer: DPOTrainer | KTOTrainer = trainer_class(inputs, **outside)
    return trainer


__all__ = ["DPOConfig", "DPOTrainer", "KTOConfig", "KTOTrainer", "preference_trainer"]
