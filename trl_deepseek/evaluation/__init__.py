"""Measure models side by side: answers once per model, any number of metrics, how sure each is.

``evaluate`` does it, for models by name as for a live one in training. ``resolve`` finds metrics,
registered ones and rewards alike, and ``check_rows`` asks whether a dataset has what they need.
"""

from trl_deepseek.evaluation.choosing import Chosen, check_rows, resolve
from trl_deepseek.evaluation.measuring import evaluate
from trl_deepseek.evaluation.questions import read
from trl_deepseek.evaluation.results import Difference, Evaluation, Measured

__all__ = [
    "Chosen",
    "Difference",
    "Evaluation",
    "Measured",
    "check_rows",
    "evaluate",
    "read",
    "resolve",
]
