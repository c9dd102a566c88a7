"""Another model's judgement: what it is asked, over which endpoint, and what its reply means."""

from trl_deepseek.judging.asking import Endpoint, Replies, ask
from trl_deepseek.judging.both_orders import Preference, prefer
from trl_deepseek.judging.comparing import comparison, read_preference
from trl_deepseek.judging.grading import grading, read_score

__all__ = [
    "Endpoint",
    "Preference",
    "Replies",
    "ask",
    "comparison",
    "grading",
    "prefer",
    "read_preference",
    "read_score",
]
