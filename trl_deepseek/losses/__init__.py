"""Registered losses: found by name, their options checked, called on log-probs."""

from trl_deepseek.losses.checking import (
    SHAPES,
    check_options,
    find,
    per_sequence,
    rehearse,
    require_range,
)

__all__ = ["SHAPES", "check_options", "find", "per_sequence", "rehearse", "require_range"]
