"""TRL's module of GRPO.

It imports the vLLM that is installed, in seconds, and fails where that one is broken. So only what
is GRPO's own imports this.
"""

from __future__ import annotations

from trl_deepseek.engines import check_importable

check_importable("GRPO")
from trl.trainer import grpo_trainer  # noqa: E402

__all__ = ["grpo_trainer"]
