"""Datasets: loaded by name, and brought into the layouts that the trainers read."""

from trl_deepseek.data.cache import explained as cache_explained
from trl_deepseek.data.cache import known_with_code
from trl_deepseek.data.demonstrations import check_demonstrations
from trl_deepseek.data.loading import (
    check_lines,
    load,
    load_held_out,
    require_columns,
    source_of,
)
from trl_deepseek.data.mixing import column_mapping, mix, rename_columns
from trl_deepseek.data.preference_checks import check_labels, check_margin, check_preferences
from trl_deepseek.data.prompts import check_batch, check_prompts
from trl_deepseek.data.rows import check_tokens, each, leave_out, say_cut, some, without
from trl_deepseek.data.turns import as_messages

__all__ = [
    "as_messages",
    "cache_explained",
    "check_batch",
    "check_demonstrations",
    "check_labels",
    "check_lines",
    "check_margin",
    "check_preferences",
    "check_prompts",
    "check_tokens",
    "column_mapping",
    "each",
    "known_with_code",
    "leave_out",
    "load",
    "load_held_out",
    "mix",
    "rename_columns",
    "require_columns",
    "say_cut",
    "some",
    "source_of",
    "without",
]
