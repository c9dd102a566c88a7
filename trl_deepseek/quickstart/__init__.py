"""SFT, then GRPO on the embedded default: the job and its report."""

from trl_deepseek.quickstart.job import Progress, Quickstart
from trl_deepseek.quickstart.result import Result

__all__ = ["Progress", "Quickstart", "Result"]
