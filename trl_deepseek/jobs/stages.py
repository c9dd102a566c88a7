"""The stages that a recipe can have: one table, from which everything else about them follows."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from trl_deepseek.jobs import TRAINING

ROWS = "rows.jsonl"  # what a stage that makes rows writes into its folder


@dataclass(frozen=True)
class Kind:
    """One command of a recipe.

    Attributes:
        makes: ``policy``, ``scorer`` (a reward model), ``rows`` or ``figures``.
        model: The option that names the model, adapter or models that it works on.
        trains: Whether it is a job of training: its processes are started by the launcher, and it
            goes on from a checkpoint.
        writes: The option that says where it writes.
        options: The class of the options that its ``check`` takes, where it does not train.
    """

    makes: str
    model: str = "model_name_or_path"
    trains: bool = False
    writes: str = "output_dir"
    options: str = ""

    def where(self, folder: str) -> str:
        """What ``writes`` is, for the stage of a folder."""
        return f"{folder}/{ROWS}" if self.writes == "output_file" else folder


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "sft": Kind("policy", trains=True),
        "preference": Kind("policy", trains=True),
        "reward": Kind("scorer", trains=True),
        "grpo": Kind("policy", trains=True),
        "merge": Kind("policy", model="adapter"),
        "sample": Kind("rows", writes="output_file", options="SampleOptions"),
        "evaluate": Kind("figures", model="models", options="EvaluateOptions"),
    }
)
assert tuple(name for name, kind in KINDS.items() if kind.trains) == TRAINING


def module(command: str) -> Any:
    """The module of ``trl_deepseek.jobs`` with the command's ``check``."""
    return importlib.import_module(f"trl_deepseek.jobs.{command}")
