"""The verifier of every task of reasoning-gym: the library's own score of the answer."""

from __future__ import annotations

import functools
import re
from typing import Any

from trl_deepseek.answers import claims, whole_answer
from trl_deepseek.chat.reasoning import Completion, answer
from trl_deepseek_plugins.gym.entries import unpacked

# The tasks whose score lets sympy's parser, which runs Python, evaluate the answer. What it is
# handed must be a formula: numbers, operators, brackets, one-letter names and these functions.
EVALUATED = frozenset(
    {
        *("countdown", "puzzle24", "polynomial_multiplication", "simple_integration"),
        "intermediate_integration",
    }
)
_FORMULA = re.compile(
    r"(?:[\d\s+\-*/^()=,]|(?<=\d)\.(?=\d)|(?<![A-Za-z])"
    r"(?:[A-Za-z]|sin|cos|tan|sec|csc|cot|asin|acos|atan|sinh|cosh|tanh|exp|log|ln|sqrt|Abs|pi)"
    r"(?![A-Za-z]))*"
)
LONGEST = 500  # characters of a formula
_POWERS = re.compile(r"(?:\*\*|\^)[^+\-*/]*(?:\*\*|\^)|(?:\*\*|\^)\s*\(?\s*\d{4,}")


def reasoning_gym(
    completion: Completion,
    entry: str | None,
    prompt: Any = None,
    generation_prefix: str | None = None,
) -> float | None:
    r"""The score that reasoning-gym gives the answer; most tasks give part of it for trying.

    The answer is found as in every first-party reward, see ``trl_deepseek.answers``: inside
    ``<answer>``, ``\boxed{}``, after ``####`` or "the answer is", else all that follows the
    reasoning. Of several the worst counts. Reasoning that was never closed has no answer and
    scores 0.0, and so does what is no formula where the library would evaluate one, and an answer
    on which the library's score fails. Abstains where the row has no entry.

    Range: 0.0 to 1.0.

    Source: ``score_answer`` of each task, Reasoning Gym, arXiv:2505.24760.

    Args:
        completion: TRL's.
        entry: The question with its answer and metadata, as the dataset ``reasoning_gym`` has it.
        prompt: TRL's; a line of it is no answer when repeated.
        generation_prefix: What the prompt has opened.
    """
    if entry is None:
        return None
    asked = unpacked(entry)
    said = answer(completion, generation_prefix)
    if not said:
        return 0.0
    task = asked["metadata"]["source_dataset"]
    return min(_score(task, each, asked) for each in _answers(said, prompt))


def _answers(said: str, prompt: Any) -> list[str]:
    """What is stated to be the answer; a whole text that states none, grids and all, is one."""
    whole = whole_answer(said).strip()
    explicit = re.search(r"<answer>|\\boxed|^[ \t]*####|\banswer\b", said, re.MULTILINE | re.I)
    return (claims(said, prompt) if explicit and whole == said.strip() else []) or [whole]


def _score(task: str, text: str, entry: dict[str, Any]) -> float:
    if task in EVALUATED and not is_formula(text):
        return 0.0
    library = _task(task)
    try:
        return float(library.score_answer(text, entry))
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError):
        return 0.0  # some scores fail on answers of another shape than theirs; else it is an error


def is_formula(text: str) -> bool:
    """Whether a text is a formula that can be evaluated, in a time that ends."""
    short = len(text) <= LONGEST and _FORMULA.fullmatch(text) is not None
    return short and not _POWERS.search(text)


@functools.cache
def _task(name: str) -> Any:
    from reasoning_gym.factory import create_dataset

    return create_dataset(name, seed=0, size=1)
