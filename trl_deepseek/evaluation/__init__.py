"""Measure models side by side: answers once per model, any number of metrics, how sure each is.

``evaluate`` does it, for models by name as for a live one in training. ``resolve`` finds metrics,
registered ones and rewards alike, and ``rows_for`` gives each its rows, or says what they lack.
"""

from trl_deepseek.evaluation.choosing import Chosen, resolve, rows_for
from trl_deepseek.evaluation.measuring import evaluate
from trl_deepseek.evaluation.results import Difference, Evaluation, Measured

__all__ = [
    "Chosen",
    "Difference",
    "Evaluation",
    "Measured",
    "evaluate",
    "resolve",
    "rows_for",
]
