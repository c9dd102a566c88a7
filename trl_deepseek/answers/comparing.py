"""Whether two answers are one.

Form by form: numbers are compared exactly, words as words, lists without order, tuples and
intervals bracket by bracket. Formulas are read by math-verify's parser and, where they can be
evaluated, compared by value at several points; math-verify's own comparison decides the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from trl_deepseek.answers import formulas, parsing
from trl_deepseek.answers.finding import solution_text
from trl_deepseek.answers.notation import normalise
from trl_deepseek.answers.quantities import Quantity, read_quantity, same_number, units_agree
from trl_deepseek.answers.reading import LONGEST, Reading, read
from trl_deepseek.answers.sets import same_set

_MISSING = {"none", "null", "nan", "n/a", "na", "unknown", "[]", "{}"}
_PROSE = 5  # words; a longer solution without any mark is a text, not an answer
_FUNCTION = re.compile(r"\\?[A-Za-z]\(\w+(?:,\w+)*\)|y")


def checker() -> Callable[[tuple[str, tuple[str, ...]]], bool | None]:
    """Import math-verify; the result tells whether ``(solution, claims)`` are one answer.

    It says None of a solution that cannot be read, and False where there is no claim, or one that
    differs: who says two things has to be right twice.
    """
    parsing.load()

    @lru_cache(maxsize=4096)
    def solution(gold: str) -> Reading | None:
        return readable(gold)

    def check(pair: tuple[str, tuple[str, ...]]) -> bool | None:
        try:
            gold = solution(pair[0])
            if gold is None:
                return None
            return bool(pair[1]) and all(_answers(gold, claim) for claim in pair[1])
        except (MemoryError, RecursionError, OverflowError):  # too large to hold
            return False

    return check


def readable(gold: str) -> Reading | None:
    """A solution, read; None where it is missing, is prose, or no parser can read it."""
    text = solution_text(gold)
    if text.strip().lower() in _MISSING:
        return None
    reading = read(text)
    if reading is None:
        return None
    if reading.kind == "words":
        return reading if len(reading.text.split()) <= _PROSE else None
    return reading if all(parsing.parses(f.text) for f in _formulas(reading)) else None


def _formulas(reading: Reading) -> list[Reading]:
    inside = [formula for item in reading.items for formula in _formulas(item)]
    return [reading, *inside] if reading.kind == "formula" else inside


def _answers(gold: Reading, claim: str) -> bool:
    r"""Whether a claim is the solution; of 5/36 \approx 0.139, being true, either side counts."""
    if len(claim) > LONGEST:
        return False
    exact, about, decimal = normalise(claim).partition(r"\approx")
    if not about or re.fullmatch(r"\s*\w?\s*", exact):
        return same(gold, read(claim))
    one, other = read(exact), read(decimal)
    if one is None or other is None or not formulas.rounds_to(_plain(one), other.quantity):
        return False
    return same(gold, one) or same(gold, other)


def same(gold: Reading, given: Reading | None) -> bool:
    """Whether an answer is the solution."""
    return given is not None and (_same(gold, given) or same_set(gold, given))


def _same(gold: Reading, given: Reading) -> bool:
    if (gold.kind == "formula" and "=" in gold.text) or (
        given.kind == "formula" and "=" in given.text
    ):
        one, other = (f"{r.label}={r.text}" if r.label else r.text for r in (gold, given))
        return formulas.same(one, other)
    if not _labels_agree(gold.label, given.label):
        unknowns = gold.label and given.label and "formula" in (gold.kind, given.kind)
        return bool(unknowns) and formulas.same(
            f"{gold.label}={gold.text}", f"{given.label}={given.text}"
        )
    if gold.kind == "choice" or given.kind == "choice":
        return _same_choice(gold, given)
    if gold.quantity and given.quantity and gold.kind != "words":
        units = {gold.quantity.unit, given.quantity.unit}
        if (gold.label or given.label) and len(units) > 1 and any("mod" in u for u in units):
            return False  # x \equiv 3 (mod 7) is more numbers than 3
        return same_number(gold.quantity, given.quantity)
    if not units_agree(gold.unit, given.unit):
        return False
    for holder, point in ((gold, given), (given, gold)):
        if holder.brackets == "{}" and len(holder.items) == 1 and point.brackets in ("()", "<>"):
            return same(holder.items[0], point)  # the set of one point
    kinds = {gold.kind, given.kind}
    if gold.brackets != given.brackets and _is_vector(gold) and _is_vector(given):
        return formulas.same(_as_column(gold), _as_column(given))
    if "words" in kinds:
        return gold.kind == given.kind and gold.text == given.text
    if "union" in kinds or kinds == {"brackets"}:
        return gold.kind == given.kind and _same_sets(gold, given)
    if "list" in kinds or "brackets" in kinds:
        return _same_lists(gold, given)
    return formulas.same(_plain(gold), _plain(given), _written(gold), _written(given))


def _labels_agree(one: str, other: str) -> bool:
    if not one or not other or one == other:
        return True
    return bool(_FUNCTION.fullmatch(one) and _FUNCTION.fullmatch(other)) and "y" in (one, other)


def _same_choice(gold: Reading, given: Reading) -> bool:
    if gold.kind == given.kind:
        return gold.text == given.text
    choice, other = (gold, given) if gold.kind == "choice" else (given, gold)
    if re.fullmatch("[A-Z]", other.text):
        return choice.text == other.text
    if other is gold and choice.items:
        return same(gold, choice.items[0])
    return False


def _same_sets(gold: Reading, given: Reading) -> bool:
    if gold.kind == "brackets" and gold.brackets != given.brackets:
        return False
    if gold.kind == "brackets" and gold.brackets != "{}":
        return len(gold.items) == len(given.items) and all(
            same(one, other) for one, other in zip(gold.items, given.items, strict=True)
        )
    return _matched(gold.items, given.items)


def _same_lists(gold: Reading, given: Reading) -> bool:
    r"""A list is a set whose braces were left out, and one value a set of one."""
    bounds = any(re.search(r"[<>]|\\[lg]e ", side.text) for side in (gold, given))
    if bounds and (" or " in gold.text) != (" or " in given.text):
        return False  # x > 1 and x < 2 is not x > 1 or x < 2
    sides = []
    for side, other in ((gold, given), (given, gold)):
        if side.kind == "brackets" and side.brackets != "{}":
            return side.brackets == "()" and _same_point(side, other)
        sides.append(side.items if side.kind in ("list", "brackets") else (side,))
    return _matched(*sides)


_COLUMN = re.compile(r"\\begin\{pmatrix\}[^&]*\\end\{pmatrix\}")


def _is_vector(reading: Reading) -> bool:
    r"""(1, 2), \langle 1, 2 \rangle or a column."""
    return reading.brackets in ("()", "<>") or bool(_COLUMN.fullmatch(reading.text))


def _as_column(reading: Reading) -> str:
    if reading.kind != "brackets":
        return reading.text
    items = r" \\ ".join(item.text for item in reading.items)
    return rf"\begin{{pmatrix}}{items}\end{{pmatrix}}"


def _same_point(point: Reading, equations: Reading) -> bool:
    """(1, 2) is x = 1, y = 2; unnamed coordinates go by the alphabet."""
    told = {item.label: item for item in equations.items}
    names = point.label.strip("()").split(",") if point.label else sorted(told)
    return (
        "" not in told
        and sorted(told) == sorted(names)
        and len(names) == len(point.items) == len(equations.items)
        and all(same(one, told[name]) for one, name in zip(point.items, names, strict=True))
    )


def _matched(golds: tuple[Reading, ...], given: tuple[Reading, ...]) -> bool:
    """Whether each has its partner, in any order."""
    if len(golds) != len(given):
        return False
    left = list(given)
    for gold in golds:
        partner = next((other for other in left if same(gold, other)), None)
        if partner is None:
            return False
        left.remove(partner)
    return True


def _plain(reading: Reading) -> str:
    """A formula or quantity for the parser, a unit left out."""
    if reading.quantity is None:
        return reading.text
    value = reading.quantity.value / (100 if reading.quantity.percent else 1)
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _written(reading: Reading) -> Quantity | None:
    return reading.quantity


def numbers_agree(
    solution: object, claims: list[str], relative: float, absolute: float
) -> bool | None:
    """Whether every claim is the solution's number within a tolerance; None without a number."""
    reading = read(solution_text(solution))
    gold = None if reading is None or reading.kind == "words" else _number_of(reading)
    if gold is None:
        return None
    found = [_number(claim) for claim in claims]
    return bool(found) and all(
        number is not None and _close(gold, number, relative, absolute) for number in found
    )


def _number(text: str) -> Quantity | None:
    reading = read(text)
    return None if reading is None else _number_of(reading)


def _number_of(reading: Reading) -> Quantity | None:
    if reading.kind == "choice" and reading.items:
        return reading.items[0].quantity
    quantity = reading.quantity
    return None if quantity and reading.label and "mod" in quantity.unit else quantity


def _close(gold: Quantity, given: Quantity, relative: float, absolute: float) -> bool:
    if same_number(gold, given):
        return True
    if gold.percent != given.percent or not units_agree(gold.unit, given.unit):
        return False
    apart = abs(gold.value - given.value)
    counts = gold.value.denominator == given.value.denominator == 1 and relative <= 1e-6
    # Whole numbers are counts: 1234567 is not 1234568, however close that is.
    share = 0 if counts else relative * max(abs(gold.value), abs(given.value))
    return bool(apart <= share or apart <= absolute)


__all__ = ["checker", "numbers_agree", "read_quantity", "readable", "same"]
