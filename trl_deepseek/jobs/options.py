"""The options of a training job: where the data is, which model, which rewards, and their flags."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import trl

from trl_deepseek.errors import ConfigError


@dataclass
class DataArguments:
    """Where the data comes from; the names are TRL's."""

    dataset_name: str | None = field(
        default=None,
        metadata={"help": "Embedded dataset, .jsonl/.json/.csv/.parquet file, folder or hub id."},
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of a hub dataset."}
    )
    dataset_train_split: str = field(default="train", metadata={"help": "Split to train on."})
    dataset_test_split: str = field(
        default="test", metadata={"help": "Split to evaluate on, with --eval_strategy."}
    )
    dataset_streaming: bool = field(
        default=False, metadata={"help": "Read rows as they are needed; --max_steps is needed."}
    )


@dataclass
class ModelArguments(trl.ModelConfig):
    """TRL's model options; ``--use_peft`` means LoRA with rank 64 and alpha 128."""

    lora_r: int = field(default=64, metadata={"help": "LoRA rank."})
    lora_alpha: int = field(default=128, metadata={"help": "LoRA alpha."})

    def __post_init__(self) -> None:
        super().__post_init__()
        # TRL turns a list of one into its string, for "all-linear"; peft would take the name of a
        # layer for a pattern that the layer's whole path must match.
        only: list[str] | str | None = vars(self)["lora_target_modules"]
        if isinstance(only, str) and only.isidentifier():
            self.lora_target_modules = [only]


@dataclass
class RewardArguments:
    """Which rewards score the completions."""

    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Registered names, file.py:function, module.function, model:PATH; one or more."
        },
    )


def add_dataclasses(parser: argparse.ArgumentParser, classes: Sequence[type]) -> None:
    """Add one flag per dataclass field, by the rules of transformers' ``HfArgumentParser``."""
    from transformers import HfArgumentParser

    # This is what argparse itself does with ``parents=``, which only the constructor takes.
    parser._add_container_actions(HfArgumentParser(list(classes), add_help=False))


def build_dataclasses(args: argparse.Namespace, classes: Sequence[type]) -> list[Any]:
    """Instances of ``classes`` from the parsed flags.

    Raises:
        ConfigError: A dataclass refuses its values.
    """
    instances = []
    for kind in classes:
        names = [field.name for field in fields(kind) if field.init]
        try:
            instances.append(kind(**{name: getattr(args, name) for name in names}))
        except (ValueError, TypeError) as error:
            raise ConfigError(str(error)) from error
    return instances
