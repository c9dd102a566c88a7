"""Engines that generate instead of transformers: which can be had here, and the policy in them.

This imports no engine; :mod:`trl_deepseek.engines.policy` does.
"""

from trl_deepseek.engines.checking import (
    check,
    check_bits,
    check_importable,
    check_installed,
    check_server,
)

__all__ = ["check", "check_bits", "check_importable", "check_installed", "check_server"]
