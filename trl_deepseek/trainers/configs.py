"""TRL's configs with the fields that name plugin items. Nothing else of TRL's is changed.

They stand apart from the trainers so that parsing a command line does not import the trainers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import trl


def use_fp16_without_bf16(config: Any) -> None:
    """Train in float16 where TRL's default, bfloat16, does not exist on the GPU."""
    import torch

    if config.bf16 is None and not config.fp16 and torch.cuda.is_available():
        config.bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        config.fp16 = not config.bf16


@dataclass
class PluginConfig:
    """The fields that all trainers share.

    Args:
        chat_template: Registered name or path of a ``.jinja`` file. When None, the family is
            recognised from the tokenizer's own template or the model's name.
        plugins: Python files and modules to load as plugins, beside the installed ones.
        block: Names of plugins to leave out.
        quantization: Registered way to hold the base model, such as ``qlora``; implies LoRA.
        lora_experts: With ``quantization``: whether LoRA adapts the routed experts too.
    """

    sequence_classification: ClassVar[bool] = False  # whether the model has one score as output

    chat_template: str | None = field(
        default=None,
        metadata={
            "help": "Registered chat template (see `trl-deepseek plugins`) or a .jinja file."
        },
    )
    plugins: list[str] | None = field(
        default=None,
        metadata={
            "help": "Python files and modules to load as plugins, beside the installed ones."
        },
    )
    block: list[str] | None = field(
        default=None, metadata={"help": "Names of plugins to leave out."}
    )
    quantization: str | None = field(
        default=None,
        metadata={
            "help": "Registered way to hold the base model: qlora, int8, lora, ... Implies LoRA."
        },
    )
    lora_experts: bool = field(
        default=False,
        metadata={"help": "With --quantization: adapt the routed experts too, in 16 bit."},
    )

    def __post_init__(self) -> None:
        if self.quantization is not None:
            use_fp16_without_bf16(self)
        super().__post_init__()  # type: ignore[misc]


@dataclass
class SFTConfig(PluginConfig, trl.SFTConfig):
    """``trl.SFTConfig`` with plugin names.

    Args:
        assistant_only_loss: As TRL's; when None, true for conversations whose chat template is
            registered (named or recognised), else false.
    """

    assistant_only_loss: bool | None = field(
        default=None,
        metadata={
            "help": "Compute the loss on what the assistant generates only. When not given: "
            "true for conversations with a registered chat template, else false."
        },
    )


@dataclass
class GRPOConfig(PluginConfig, trl.GRPOConfig):
    """``trl.GRPOConfig`` with plugin names."""


@dataclass
class RewardConfig(PluginConfig, trl.RewardConfig):
    """``trl.RewardConfig`` with plugin names.

    Args:
        loss_type: Registered loss on the two scores of a pair.
        loss_kwargs: Options of that loss.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*trl.RewardConfig._VALID_DICT_FIELDS, "loss_kwargs"]
    sequence_classification: ClassVar[bool] = True

    loss_type: str = field(
        default="bradley_terry",
        metadata={"help": "Registered loss on the two scores of a pair (`trl-deepseek plugins`)."},
    )
    loss_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Options of the loss, as JSON: '{\"label_smoothing\": 0.1}'."},
    )
