"""SFT, then GRPO on the embedded default: the job and its report."""

from trl_deepseek.quickstart.job import Progress, Quickstart, Result

__all__ = ["Progress", "Quickstart", "Result"]
