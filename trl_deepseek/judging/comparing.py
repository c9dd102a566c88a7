"""Two responses side by side: what the judge is asked, and what its reply means."""

from __future__ import annotations

import re
from typing import Any

from trl_deepseek.chat.reasoning import CLOSE
from trl_deepseek.judging.showing import RULE, dialogue, shown_reference, tagged

# A small a is an article.
_VERDICT = re.compile(
    r"\b(?i:verdict)\b[\"'*_\s]*[:=][\"'*_\s\[(]*(?:(?i:response)[-\s]+)?(?P<value>A|B|(?i:tie))\b"
)
_VALUES = {"a": 1.0, "b": 0.0, "e": 0.5}  # by the last letter


def comparison(
    instructions: str, prompt: Any, reference: object, first: str, second: str
) -> list[dict[str, str]]:
    """The conversation that asks which of two responses is better.

    Args:
        instructions: What to judge by.
        prompt: What both answer: a text, or the messages before them.
        reference: A reference answer; None or blank for none.
        first: The response shown first, as A.
        second: The response shown second, as B.
    """
    question = [("question", dialogue(prompt)), *shown_reference(reference)]
    rule = (
        f"{instructions}\n{RULE} The order in which the two responses stand means nothing, and a "
        "longer response is not a better one for its length. Say in a few sentences what tells "
        "them apart, then end with one line:\nVerdict: A\nwhere A, or B, is the better response; "
        "write tie where neither is better."
    )
    shown = tagged([*question, ("response-A", first), ("response-B", second)])
    return [{"role": "system", "content": rule}, {"role": "user", "content": shown}]


def read_preference(reply: str) -> float | None:
    """1.0 where the reply prefers the first response, 0.0 the second, 0.5 neither.

    None where it has no verdict, or several that differ.
    """
    verdicts = _VERDICT.finditer(reply.rpartition(CLOSE)[2])
    values = {_VALUES[found["value"][-1].lower()] for found in verdicts}
    return values.pop() if len(values) == 1 else None
