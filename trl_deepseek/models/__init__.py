"""Models: embedded ones by name, folders and hub ids, and the configs of published ones."""

from trl_deepseek.models.loading import (
    as_reward_model,
    build_revision,
    check,
    copy_of,
    load,
    load_config,
    load_tokenizer,
    resolve,
    revision_of_seed,
)

__all__ = [
    "as_reward_model",
    "build_revision",
    "check",
    "copy_of",
    "load",
    "load_config",
    "load_tokenizer",
    "resolve",
    "revision_of_seed",
]
