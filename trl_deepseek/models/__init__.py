"""Models: embedded ones by name, folders and hub ids, and the configs of published ones."""

from trl_deepseek.models.loading import (
    as_reward_model,
    build_revision,
    check,
    check_tokenizer,
    check_weights,
    copy_of,
    load,
    load_config,
    load_tokenizer,
    resolve,
    revision_of_seed,
)
from trl_deepseek.models.weights import require_finite

__all__ = [
    "as_reward_model",
    "build_revision",
    "check",
    "check_tokenizer",
    "check_weights",
    "copy_of",
    "load",
    "load_config",
    "load_tokenizer",
    "require_finite",
    "resolve",
    "revision_of_seed",
]
