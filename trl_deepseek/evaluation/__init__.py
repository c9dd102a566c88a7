"""Measure models side by side: answers once per model, any number of metrics, how sure each is.

``evaluate`` does it, for models by name as for a live one in training. ``resolve`` finds metrics,
registered ones and rewards alike, and ``prepare`` sees that a dataset has what they need.
"""

from trl_deepseek.evaluation.choosing import Chosen, resolve
from trl_deepseek.evaluation.measuring import evaluate
from trl_deepseek.evaluation.preparing import Rows, prepare
from trl_deepseek.evaluation.results import Difference, Evaluation, Measured

__all__ = [
    "Chosen",
    "Difference",
    "Evaluation",
    "Measured",
    "Rows",
    "evaluate",
    "prepare",
    "resolve",
]
