"""Plugins for Hugging Face TRL: DeepSeek chat templates, noise, losses and rewards by name.

Importing this package imports neither torch nor transformers; the trainers are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trl_deepseek.hookspecs import hookimpl
from trl_deepseek.plugin_loading import load_registry
from trl_deepseek.policy_types import TokenLogps
from trl_deepseek.registry import Registry
from trl_deepseek.types import ChatTemplate, PairLogps, PairRewards, UnpairedLogps

if TYPE_CHECKING:
    from trl_deepseek.trainers.grpo import GRPOConfig, GRPOTrainer
    from trl_deepseek.trainers.preference import (
        DPOConfig,
        DPOTrainer,
        KTOConfig,
        KTOTrainer,
        preference_trainer,
    )
    from trl_deepseek.trainers.reward import RewardConfig, RewardTrainer
    from trl_deepseek.trainers.sft import SFTConfig, SFTTrainer

_LAZY = {
    "DPOConfig": "trl_deepseek.trainers.preference",
    "DPOTrainer": "trl_deepseek.trainers.preference",
    "GRPOConfig": "trl_deepseek.trainers.grpo",
    "GRPOTrainer": "trl_deepseek.trainers.grpo",
    "KTOConfig": "trl_deepseek.trainers.preference",
    "KTOTrainer": "trl_deepseek.trainers.preference",
    "RewardConfig": "trl_deepseek.trainers.reward",
    "RewardTrainer": "trl_deepseek.trainers.reward",
    "SFTConfig": "trl_deepseek.trainers.sft",
    "SFTTrainer": "trl_deepseek.trainers.sft",
    "preference_trainer": "trl_deepseek.trainers.preference",
}

__all__ = [
    "ChatTemplate",
    "DPOConfig",
    "DPOTrainer",
    "GRPOConfig",
    "GRPOTrainer",
    "KTOConfig",
    "KTOTrainer",
    "PairLogps",
    "PairRewards",
    "Registry",
    "RewardConfig",
    "RewardTrainer",
    "SFTConfig",
    "SFTTrainer",
    "TokenLogps",
    "UnpairedLogps",
    "hookimpl",
    "load_registry",
    "preference_trainer",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
