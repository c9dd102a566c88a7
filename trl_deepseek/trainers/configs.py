"""TRL's configs with the fields that name plugin items. Nothing else of TRL's is changed.

They stand apart from the trainers so that parsing a command line does not import the trainers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trl


@dataclass
class PluginConfig:
    """The fields that all trainers share.

    Args:
        chat_template: Registered name or path of a ``.jinja`` file. When None, the family is
            recognised from the tokenizer's own template or the model's name.
        plugins: Python files and modules to load as plugins, beside the installed ones.
        block: Names of plugins to leave out.
    """

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
