"""What a completion only repeats of its question."""

from __future__ import annotations

import re
from typing import Any

from trl_deepseek.answers.notation import normalise
from trl_deepseek.answers.quantities import read_quantity

_MARKS = r"\$|\\[()\[\],;!]"


def without_echo(said: str, prompt: Any) -> str:
    """A text without the sentences of its prompt that show a box and more than it."""
    prompt = _text(prompt)
    if "\\boxed" not in prompt:
        return said
    for sentence in re.split(r"(?<=[.?!])\s+|\n", prompt):
        bare = re.fullmatch(r"\s*\$*\\boxed\{[^{}]*\}\$*[\s.]*", sentence)
        if "\\boxed" in sentence and not bare:
            said = said.replace(sentence.strip(), " ")
    return said


def restated(claim: str, prompt: Any, solution: str) -> bool:
    """Whether an answer is a formula that stands in the question, and not the solution's own text.

    Such as ``x - 3 = 0`` where it is to be solved, or ``2 + 2``: equal to the solution, but nothing
    has been worked out. A number or a symbol alone may well be what was asked for.
    """
    formula = _bare(claim)
    value = re.sub(r"^[A-Za-z]=", "", formula)
    if formula == _bare(solution) or re.fullmatch(r"\\?\w*", value) or read_quantity(value):
        return False
    spaced = r"\s*".join(map(re.escape, formula))
    question = re.sub(_MARKS, " ", normalise(_text(prompt)))
    return bool(re.search(rf"(?<![\w.]){spaced}(?![\w^(/])", question))


def _bare(text: str) -> str:
    """One spelling, without white space and the marks around formulas."""
    return re.sub(rf"\s|{_MARKS}", "", normalise(text)).rstrip(".?")


def _text(prompt: Any) -> str:
    if isinstance(prompt, (list, tuple)):
        said = [message.get("content") for message in prompt if isinstance(message, dict)]
        prompt = "\n".join(part for part in said if isinstance(part, str))
    return prompt if isinstance(prompt, str) else ""
