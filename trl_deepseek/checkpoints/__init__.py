"""Checkpoints that are whole or not there: written aside, renamed last, checked before use.

``writing`` puts one together under a name that nothing takes for a checkpoint; ``manifest`` says
what is in it; ``finding`` takes the newest whole one; ``starting`` begins a fresh run from one.
"""

from trl_deepseek.checkpoints.finding import Found, check, newest
from trl_deepseek.checkpoints.starting import Start, check_adapter, resumed, start_of

__all__ = ["Found", "Start", "check", "check_adapter", "newest", "resumed", "start_of"]
