"""TRL's module of GRPO, and what stands in it under another name while a trainer is built.

It imports the vLLM that is installed, in seconds, and fails where that one is broken. So only what
is GRPO's own imports this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from trl_deepseek.engines import check_importable

check_importable("GRPO")
from trl.trainer import grpo_trainer  # noqa: E402


@contextlib.contextmanager
def replaced(name: str, value: Any) -> Iterator[None]:
    """Within it, TRL's module finds ``value`` under ``name``."""
    found = getattr(grpo_trainer, name)
    setattr(grpo_trainer, name, value)
    try:
        yield
    finally:
        setattr(grpo_trainer, name, found)


__all__ = ["grpo_trainer", "replaced"]
