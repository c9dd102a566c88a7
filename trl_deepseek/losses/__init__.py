"""Registered losses: found by name, bound to the options of a run, called on what they see.

:func:`trl_deepseek.losses.plan.plan` makes every check of them that needs no data and no model.
"""

from trl_deepseek.losses.bound import BoundLoss, bind, invented
from trl_deepseek.losses.checking import SHAPES, check_options, find, require_range

__all__ = [
    "SHAPES",
    "BoundLoss",
    "bind",
    "check_options",
    "find",
    "invented",
    "require_range",
]
