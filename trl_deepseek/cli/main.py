"""Dispatch ``trl-deepseek COMMAND`` and turn errors into one message and an exit code.

Exit codes: 0 done, 1 the run failed, 2 the user's input is wrong, 130 interrupted.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from importlib.metadata import version

from trl_deepseek.cli.parser import Parser, did_you_mean
from trl_deepseek.errors import ConfigError, TrlDeepseekError, UserError

COMMANDS = {
    "quickstart": "Train the embedded tiny model: SFT, then GRPO, with tables and a picture.",
    "sft": "Supervised fine-tuning.",
    "preference": "Train on preferences with any registered loss: dpo, ipo, kto, orpo, ...",
    "reward": "Train a reward model on preference pairs.",
    "grpo": "Group relative policy optimisation with reward functions by name.",

    "plugins": "List every name that plugins register, and the plugins that do not load; show one.",
