"""From options to a checked job: one module per kind of training, and recipes of several.

The modules ``sft``, ``preference``, ``reward`` and ``grpo`` have ``OPTIONS``, the dataclasses that
their options are fields of; ``settle(options)``, the job without its data; and ``check(options)``,
the job with everything checked that can be before a model is loaded.
"""

from __future__ import annotations

import importlib
from typing import Any

TRAINING = ("sft", "preference", "reward", "grpo")
# TRL's commands for one loss: ``preference`` with that loss.
ALIASES = ("dpo", "ipo", "kto", "orpo", "simpo")


def kind(command: str) -> Any:
    """The module of a training command or an alias of one."""
    command = "preference" if command in ALIASES else command
    return importlib.import_module(f"trl_deepseek.jobs.{command}")
