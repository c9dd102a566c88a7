r"""Sets of real numbers: intervals, inequalities, ``\{x | x > 2\}``, all but a few numbers."""

from __future__ import annotations

import re
from typing import Any

from trl_deepseek.answers.parsing import parse
from trl_deepseek.answers.reading import Reading, read

_BUILDER = re.compile(r"\\\{\s*(\w)\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\||:|\\mid)(?P<rest>.*)\\\}")
_REALS = re.compile(
    r"\\mathbb\s?\{?R\}?"
    r"|R|\(?all real (?:numbers|values)\)?|all reals|全体实数|所有实数|实数集R?"
)
_POSITIVE = re.compile(r"\\mathbb\s?\{?R\}?(?:\^\{?\+\}?|_\{?\+\}?|_\{>\s?0\})")
_LIKE = re.compile(r"[<>]|\\(?:le|ge|ne|mathbb|setminus|cup)(?![A-Za-z])|实数|all real|∞|\\infty")


def same_set(gold: Reading, given: Reading) -> bool:
    """Whether both are one set of real numbers, however each is written."""
    if not any(
        _LIKE.search(side.text) or side.kind in ("brackets", "union") for side in (gold, given)
    ):
        return False
    one, other = _numbers(gold), _numbers(given)
    if one is None or other is None:
        return False
    names = {side[1] or reading.label for side, reading in ((one, gold), (other, given))} - {""}
    return len(names) < 2 and bool(one[0] == other[0])


def _numbers(reading: Reading) -> tuple[Any, str] | None:
    """The set, and the unknown that it is said of; None where it is none."""
    import sympy

    if _REALS.fullmatch(reading.text):
        return sympy.S.Reals, ""
    if _POSITIVE.fullmatch(reading.text):
        return sympy.Interval.open(0, sympy.oo), ""
    without = re.fullmatch(r"(.+?)\s*(?:\\setminus|\\backslash)\s*(\\\{.+\\\})", reading.text)
    if without:
        both = [read(part, in_brackets=True) for part in without.groups()]
        first, second = (_numbers(part) if part else None for part in both)
        return (first[0] - second[0], first[1]) if first and second else None
    builder = _BUILDER.fullmatch(reading.text)
    if builder:
        condition = read(builder["rest"])
        return _numbers(condition) if condition else None
    if reading.kind == "list":
        found = [_numbers(item) if item.kind == "formula" else None for item in reading.items]
        known = [part for part in found if part is not None]
        if len(known) < len(found) or len({name for _, name in known}) > 1:
            return None
        join = sympy.Union if " or " in reading.text or "或" in reading.text else sympy.Intersection
        return join(*(numbers for numbers, _ in known)), known[0][1]
    if reading.kind == "formula":
        return _solutions(reading)
    if reading.kind not in ("brackets", "union"):
        return None
    union: Any = sympy.S.EmptySet
    for piece in reading.items if reading.kind == "union" else (reading,):
        if piece.brackets == "{}":
            numbers = [parse(item.text) for item in piece.items]
            if any(number is None or number.free_symbols for number in numbers):
                return None
            union |= sympy.FiniteSet(*map(_exact, numbers))
            continue
        if len(piece.items) != 2 or piece.brackets not in ("()", "[]", "(]", "[)"):
            return None
        low, high = (parse(item.text) for item in piece.items)
        if low is None or high is None or low.free_symbols or high.free_symbols:
            return None
        ends = (piece.brackets[0] == "(", piece.brackets[1] == ")")
        union |= sympy.Interval(_exact(low), _exact(high), *ends)
    return union, ""


def _exact(number: Any) -> Any:
    import sympy

    number = number.doit()
    return sympy.nsimplify(number, rational=True) if number.has(sympy.Float) else number


def _solutions(reading: Reading) -> tuple[Any, str] | None:
    """The real numbers that an inequality in one unknown, or a chain of them, leaves."""
    import sympy

    relation = parse(reading.text)
    if relation is None or len(getattr(relation, "free_symbols", ())) != 1:
        return None
    found: Any = sympy.S.Reals
    for part in getattr(relation, "_unsorted_args", [relation]):
        if not getattr(part, "is_Relational", False) or isinstance(part, sympy.Eq):
            return None
        try:
            found = found.intersect(_exact(part).as_set())
        except (NotImplementedError, TypeError, ValueError):
            return None
    return found, str(next(iter(relation.free_symbols)))
