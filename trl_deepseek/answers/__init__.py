"""What the answer of a text is, what a solution is, and whether the two are the same.

- ``finding``: the answers that a completion commits itself to, and the one that a solution gives;
  of prose (``prose``) too, and none that only repeats the question (``echoes``).
- ``boxes``: the boxes of a text, and those that are one answer.
- ``notation``: one way to write what LaTeX, Unicode and Chinese write in many.
- ``quantities``: numbers with their units, exactly.
- ``reading``: the form of an answer: quantity, words, list, tuple, interval, expression.
- ``comparing``: whether two answers are one; of formulas (``formulas``, read by math-verify's
  parser, ``parsing``) and of sets of numbers (``sets``) too.
- ``choices``: the letter of a multiple-choice question.

Wrongly to pay is worse than not to pay: what contradicts itself or can be read in two ways is no
answer.
"""

from trl_deepseek.answers.boxes import boxed
from trl_deepseek.answers.choices import chosen
from trl_deepseek.answers.comparing import checker, numbers_agree
from trl_deepseek.answers.echoes import restated
from trl_deepseek.answers.finding import claims, solution_text, turn, whole_answer

__all__ = [
    "boxed",
    "checker",
    "chosen",
    "claims",
    "numbers_agree",
    "restated",
    "solution_text",
    "turn",
    "whole_answer",
]
