"""One response on a scale: what the judge is asked, and what its reply means."""

from __future__ import annotations

import re
from typing import Any

from trl_deepseek.chat.reasoning import CLOSE
from trl_deepseek.judging.showing import RULE, dialogue, shown_reference, tagged

_SCORE = re.compile(
    r"\bscore\b[\"'*_\s]*[:=][\"'*_\s]*(?P<value>-?\d+(?:\.\d+)?)"
    r"(?:[*_\s]*(?:/|out of)[*_\s]*(?P<most>\d+(?:\.\d+)?))?(?![\w.]*\d)",
    re.IGNORECASE,
)


def grading(
    instructions: str, scale: tuple[float, float], prompt: Any, reference: object, response: str
) -> list[dict[str, str]]:
    """The conversation that asks for a score.

    Args:
        instructions: What to judge by.
        scale: The least and the most the judge may give.
        prompt: What the response answers: a text, or the messages before it.
        reference: A reference answer; None or blank for none.
        response: What is judged.
    """
    question = [("question", dialogue(prompt)), *shown_reference(reference)]
    least, most = scale
    rule = (
        f"{instructions}\n{RULE} Say in a few sentences what you find, then end with one line:\n"
        f"Score: N\nwhere N is a number from {least:g} (worst) to {most:g} (best)."
    )
    shown = tagged([*question, ("response", response)])
    return [{"role": "system", "content": rule}, {"role": "user", "content": shown}]


def read_score(reply: str, scale: tuple[float, float]) -> float | None:
    """The reply's score as a share of the scale, 0.0 to 1.0; None where it is not certain."""
    least, most = scale
    values = set()
    for found in _SCORE.finditer(reply.rpartition(CLOSE)[2]):
        if found["most"] is not None and float(found["most"]) != most:
            return None  # a score on another scale
        values.add(float(found["value"]))
    if len(values) != 1:
        return None
    value = values.pop()
    return (value - least) / (most - least) if least <= value <= most else None
