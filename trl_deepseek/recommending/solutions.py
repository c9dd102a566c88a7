"""How the solutions of a dataset can be read: as letters, numbers, formulas, or a few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trl_deepseek.answers import checker, numbers_agree, solution_text
from trl_deepseek.answers.choices import letter_of
from trl_deepseek.answers.reading import read as read_form

Form = Literal["letters", "numbers", "formulas", "words"]
NEARLY = 0.95  # share of a form that names them all
CHOICES = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Solutions:
    """What the solutions of a sample are.

    Attributes:
        form: The form that a reward is chosen by.
        shares: Form to the share of the solutions that have it.
        unreadable: Numbers of those that no reward could read, with what they are.
    """

    form: Form
    shares: Mapping[str, float]
    unreadable: Mapping[int, str]


def read(given: Sequence[Any]) -> Solutions:
    """Look at solutions as the rewards would."""
    check = checker()
    forms: list[Form | None] = [_form(solution, check) for solution in given]
    unreadable = {
        number: f"cannot be read: {str(given[number])[:60]!r}"
        for number, form in enumerate(forms)
        if form is None
    }
    known = [form for form in forms if form is not None]
    total = max(len(known), 1)
    shares = {form: known.count(form) / total for form in ("letters", "numbers", "formulas")}
    shares["words"] = known.count("words") / total
    form: Form = "formulas"  # whose reward reads the others' too
    if shares["letters"] >= NEARLY:
        form = "letters"
    elif shares["numbers"] >= NEARLY:
        form = "numbers"
    elif shares["words"] > 0.5:
        form = "words"
    return Solutions(form, {name: share for name, share in shares.items() if share}, unreadable)


def _form(solution: Any, check: Any) -> Form | None:
    if isinstance(solution, bool) or not isinstance(solution, (str, int, float)):
        return None
    text = solution_text(solution).strip()
    letter = letter_of(text)
    if letter is not None and letter in CHOICES and len(text) <= len("(A)."):
        return "letters"
    if "\\" not in text and numbers_agree(solution, [text], 1e-6, 0.0) is not None:
        return "numbers"
    if check((str(solution), ())) is None:
        return None
    form = read_form(text)
    return "words" if form is not None and form.kind == "words" else "formulas"
