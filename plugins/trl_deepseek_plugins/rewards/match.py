"""Rewards that compare the answer with the solution: as text, as a number, as a choice."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from trl_deepseek import hookimpl
from trl_deepseek.chat.reasoning import Completion, answer, boxed
from trl_deepseek.types import Register

# 1,234.5 | 1234 | .5, each with an exponent; a fraction of two; the minus may be typographic.
_AMOUNT = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>[-+−]?)\s?[$€£¥]?(?P<over>{_AMOUNT})(?:\s?/\s?(?P<under>{_AMOUNT}))?(?!\w)"
)
# "the answer is (B)", "Answer: **B**", "答案是 B", "选 B"
_STATED = re.compile(
    r"(?:(?i:answer|option|choice)|答案|选项|选择|选)"
    r"(?:(?i:is|are)|为|是|[\s:：=\"'*(（\[【$])*(?P<letter>[A-Z])(?![A-Za-z])"
)
_ALONE = re.compile(r"[\s\"'*(（\[【$]*(?P<letter>[A-Za-z])[\s\"'*)）\]】$.。:：]*")
_LEADING = re.compile(r"[\s\"'*(（\[【$]*(?P<letter>[A-Z])\s*[\"'*)）\]】$]*[.):：、]\s")


@hookimpl
def register_rewards(register: Register) -> None:
    register("exact_match", exact_match, columns=("solution",), samplewise=True)
    register("numeric_match", numeric_match, columns=("solution",), samplewise=True)
    register("multiple_choice", multiple_choice, columns=("solution",), samplewise=True)


def exact_match(
    completions: Sequence[Completion],
    solution: Sequence[object],
    generation_prefix: str | None = None,
    **_: object,
) -> list[float | None]:
    """1.0 where the answer is the solution, character for character, else 0.0.

    The answer is what follows the reasoning: all after the last ``</think>`` where there is one,
    without surrounding white space. Reasoning that was never closed has no answer and scores 0.0.
    Abstains where the solution is None or blank.

    Range: 0.0 or 1.0.

    Source: the exact match of arXiv:1606.05250, section 6.1, without its normalisation.
    """
    return [
        float(answer(completion, generation_prefix) == gold) if gold else None
        for completion, gold in zip(completions, _golds(solution), strict=True)
    ]


def numeric_match(
    completions: Sequence[Completion],
    solution: Sequence[object],
    generation_prefix: str | None = None,
    relative: float = 1e-6,
    absolute: float = 1e-9,
    **_: object,
) -> list[float | None]:
    r"""1.0 where the answer's number is the solution's, within a tolerance, else 0.0.

    The number is the one in the last ``\boxed{}`` of the answer, else the last one that the
    answer says. Thousands commas, exponents, fractions such as ``1/3`` and currency signs are
    read; a percent sign or a unit after the number is not looked at. Abstains where the solution
    holds no number.

    Range: 0.0 or 1.0.

    Source: how answers to GSM8K are graded, arXiv:2110.14168.

    Args:
        completions: TRL's.
        solution: Numbers, or texts whose last number counts (``#### 72``).
        generation_prefix: What the prompt has opened.
        relative: Largest difference as a share of the larger of the two.
        absolute: Largest difference as it is.
    """
    scores: list[float | None] = []
    for completion, gold in zip(completions, _golds(solution), strict=True):
        expected = _number(gold)
        given = answer(completion, generation_prefix)
        boxes = boxed(given)
        found = _number(boxes[-1] if boxes else given)
        if expected is None:
            scores.append(None)
        else:
            close = found is not None and math.isclose(
                found, expected, rel_tol=relative, abs_tol=absolute
            )
            scores.append(float(close))
    return scores


def multiple_choice(
    completions: Sequence[Completion],
    solution: Sequence[object],
    generation_prefix: str | None = None,
    **_: object,
) -> list[float | None]:
    r"""1.0 where the answer chooses the solution's letter, else 0.0.

    The choice is the letter in the last ``\boxed{}`` of the answer, else the last one stated
    ("the answer is (B)", "答案是 B"), else the answer itself if it is one letter, else the letter
    that it begins with ("B. Paris"). Anything else chooses nothing. Abstains where the solution
    is None or blank.

    Range: 0.0 or 1.0.

    Source: the four-way questions of MMLU, arXiv:2009.03300; any letter is a choice here.

    Raises:
        ValueError: A solution is not a letter: a number could count from 0 or from 1.
    """
    scores: list[float | None] = []
    for completion, gold in zip(completions, _golds(solution), strict=True):
        if not gold:
            scores.append(None)
            continue
        alone = _ALONE.fullmatch(gold)
        if alone is None:
            raise ValueError(
                f"the solution of a multiple-choice question is a letter, not {gold!r}"
            )
        chosen = _choice(answer(completion, generation_prefix))
        scores.append(float(chosen == alone["letter"].upper()))
    return scores


def _golds(solution: Sequence[object]) -> list[str]:
    """The solutions as text; a number column of a dataset is one too."""
    return ["" if gold is None else str(gold).strip() for gold in solution]


def _number(text: str) -> float | None:
    numbers = list(_NUMBER.finditer(text.replace("\\!", "").replace("{,}", ",")))
    if not numbers:
        return None
    found = numbers[-1]
    try:
        value = float(found["over"].replace(",", ""))
        if found["under"]:
            value /= float(found["under"].replace(",", ""))
    except ZeroDivisionError:
        return None
    return -value if found["sign"] in ("-", "−") else value


def _choice(text: str) -> str | None:
    boxes = boxed(text)
    if boxes:
        inside = re.sub(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}", r"\1", boxes[-1])
        found = _ALONE.fullmatch(inside)
        return found["letter"].upper() if found else None
    stated = list(_STATED.finditer(text))
    found = stated[-1] if stated else _ALONE.fullmatch(text) or _LEADING.match(text)
    return found["letter"].upper() if found else None
