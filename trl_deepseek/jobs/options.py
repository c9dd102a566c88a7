"""The options of a training job: where the data is, which model, which rewards, and their flags."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_origin, get_type_hints

import trl

from trl_deepseek.errors import ConfigError, UserError
from trl_deepseek.jobs.option_types import PAIRS, OneOrMany, text_or_list
from trl_deepseek.trainers import ranges

TASK_AND_REWARDS = "task and reward_funcs both say what scores the answers: leave one out"


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
    eval_dataset: str | None = field(
        default=None,
        metadata={"help": "Another dataset to evaluate on, instead of the test split."},
    )
    dataset_kwargs: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Options of an embedded dataset, as JSON: '{\"max_numbers\": 4}'."},
    )
    columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns to rename, such as question=prompt answer=solution.",
            "metavar": PAIRS,
        },
    )
    as_messages: bool = field(
        default=False,
        metadata={"help": "Take prompts that are text for the user's turn, answers for replies."},
    )
    datasets: list[str] | None = field(
        default=None,
        metadata={
            "help": "Several datasets instead of one, each a JSON object; in YAML a list of path, "
            "name, split, columns and weight.",
            "metavar": "JSON",
        },
    )

    def __post_init__(self) -> None:
        ranges.read_mappings(self, ("dataset_kwargs",), ())
        ranges.check_numbers(self)
        if self.datasets is None:
            return
        if self.dataset_kwargs is not None:
            raise ConfigError(
                "dataset_kwargs goes with dataset_name\n"
                "  give each of datasets its own: {path: ..., kwargs: {...}}"
            )
        if self.dataset_name is not None:
            raise ConfigError(
                "dataset_name and datasets both say what to train on: leave one out\n"
                "  the first of datasets can be {path: " + self.dataset_name + "}"
            )
        self.datasets = [_part(part) for part in self.datasets]
        if not self.datasets:
            raise ConfigError("datasets is empty: name one with path")

    @property
    def source(self) -> str:
        """What messages call the rows to train on."""
        return self.dataset_name or ", ".join(str(part["path"]) for part in self.parts)

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The datasets of a mixture, as :func:`trl_deepseek.data.mix` takes them."""
        parts: Any = self.datasets
        return list(parts or [])


def _part(part: Any) -> Any:
    """One dataset of a mixture; from Python it may be a mapping already."""
    try:
        value = json.loads(part) if isinstance(part, str) else part
    except ValueError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("path"), str):
        raise ConfigError(
            f"datasets: {part} is no mapping with a path\n"
            "  in YAML: datasets: [{path: a.jsonl, weight: 0.7}, {path: b.jsonl, weight: 0.3}]"
        )
    return value


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
        ranges.check_numbers(self)
        ranges.check_words(self)


@dataclass
class RewardArguments:
    """Which rewards score the completions."""

    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Registered names, file.py:function, module.function, model:PATH; one or more. "
            "When not given: the verifier that the dataset brings."
        },
    )
    task: str | None = field(
        default=None,
        metadata={
            "help": "Embedded dataset whose verifier scores these rows, or a registered reward; "
            "instead of --reward_funcs."
        },
    )
    tools: list[str] | None = field(
        default=None,
        metadata={
            "help": "Tools that the model may call: registered names, file.py:function, "
            "module.function."
        },
    )
    environment_factory: str | None = field(
        default=None,
        metadata={
            "help": "Class whose methods are the model's tools: file.py:Class or module.Class."
        },
    )

    def __post_init__(self) -> None:
        if self.task is not None and self.reward_funcs:
            raise ConfigError(TASK_AND_REWARDS)


def add_dataclasses(parser: argparse.ArgumentParser, classes: Sequence[type]) -> None:
    """Add one flag per dataclass field, by the rules of transformers' ``HfArgumentParser``.

    Where those know one type only, a field that is text or a list takes one word or several, and
    one that is a mapping takes JSON.
    """
    from transformers import HfArgumentParser

    # TRL's SFTConfig has a dataset_kwargs, too, which holds one key of its own: one flag sets both.
    added = HfArgumentParser(list(classes), add_help=False, conflict_handler="resolve")
    hints = {name: hint for kind in classes for name, hint in get_type_hints(kind).items()}
    for action in added._actions:
        alternatives = get_args(hints[action.dest])
        if any(get_origin(each) is dict for each in (hints[action.dest], *alternatives)):
            action.type = str
        elif str in alternatives and any(get_origin(each) is list for each in alternatives):
            action.type, action.nargs = text_or_list, "+"
            action.__class__ = OneOrMany
    # This is what argparse itself does with ``parents=``, which only the constructor takes.
    parser._add_container_actions(added)


def build_dataclasses(args: argparse.Namespace, classes: Sequence[type]) -> list[Any]:
    """Instances of ``classes`` from the parsed flags.

    Raises:
        ConfigError: A dataclass refuses its values.
    """
    instances = []
    for kind in classes:
        names = [field.name for field in fields(kind) if field.init]
        try:
            instance = kind(**{name: getattr(args, name) for name in names})
        except UserError:
            raise
        except (ValueError, TypeError) as error:
            raise ConfigError(str(error)) from error
        if hasattr(kind, "given"):  # a config, which remembers what it was given
            instance.given = frozenset(names).intersection(getattr(args, "given", ()))
        instances.append(instance)
    return instances
