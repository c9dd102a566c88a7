r"""Compare two formulas: math-verify's parser reads them, their values decide.

math-verify alone pays wrong answers: it rounds to six decimals, so that 1/2004! is 1/2006!; it
reads only the right side of an answer's equation; it drops the subscript of ``101_2``; it adds
the numbers of ``2 3``. And it does not pay some right ones.
"""

from __future__ import annotations

import re
from typing import Any

from trl_deepseek.answers.parsing import based, parse
from trl_deepseek.answers.quantities import Quantity

_POINTS = ("7/5", "-11/7", "13/4", "-17/9", "2/7")
_PRECISION = 40


def same(
    gold: str, given: str, gold_number: Quantity | None = None, number: Quantity | None = None
) -> bool:
    """Whether two formulas are equal.

    Args:
        gold: The solution's, normalised.
        given: The answer's.
        gold_number: What the solution's is, where it is a mere number.
        number: The same of the answer's.
    """
    if _letters(gold) == _letters(given):
        return True
    bases = [based(text) for text in (gold, given)]
    if any(bases):
        return bases[0] == bases[1]
    a, b = parse(gold), parse(given)
    if a is None or b is None:
        return False
    return _same(a, b, gold_number, number)


def _letters(latex: str) -> str:
    return re.sub(r"\s", "", re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", latex))


def _same(
    a: Any, b: Any, gold_number: Quantity | None = None, number: Quantity | None = None
) -> bool:
    import sympy
    from latex2sympy2_extended.logic import And

    relations = [isinstance(side, (sympy.core.relational.Relational, And)) for side in (a, b)]
    if all(relations):
        return _same_relation(a, b)
    if any(relations):
        return _value_of(a, b, relations)
    if isinstance(a, sympy.MatrixBase) or isinstance(b, sympy.MatrixBase):
        return (
            isinstance(a, sympy.MatrixBase)
            and isinstance(b, sympy.MatrixBase)
            and a.shape == b.shape
            and all(_same(x, y) for x, y in zip(a.flat(), b.flat(), strict=True))
        )
    equal = _equal_at_points(a, b)
    if equal is None:
        from math_verify import verify

        return bool(verify(a, b, timeout_seconds=None))
    return equal or _rounds_to(a, b, gold_number, number)


def _value_of(a: Any, b: Any, relations: list[bool]) -> bool:
    """An equation against a value: f = V, or 2 + 3 = 5, gives its right side; 2x = 10 does not."""
    import sympy
    from latex2sympy2_extended.logic import And

    relation, other = (a, b) if relations[0] else (b, a)
    links = list(relation._unsorted_args) if isinstance(relation, And) else [relation]
    if not all(isinstance(link, sympy.Eq) for link in links):
        return False
    sides = [links[0].lhs, *(link.rhs for link in links)]
    if sides[-1].is_Symbol:
        sides.reverse()  # 3 = x
    first = sides[0]
    named = first.is_Symbol or isinstance(first, sympy.core.function.AppliedUndef)
    chain = sides[1:] if named else sides
    return all(_equal_at_points(side, other) is True for side in chain)


def _same_relation(a: Any, b: Any) -> bool:
    """One relation is a multiple of the other; chains of them part by part."""
    import sympy
    from latex2sympy2_extended.logic import And

    if isinstance(a, And) or isinstance(b, And):
        if not (isinstance(a, And) and isinstance(b, And)):
            return False
        first, second = list(a._unsorted_args), list(b._unsorted_args)
        if len(first) != len(second):
            return False
        return all(any(_same_relation(x, y) for y in second) for x in first) and all(
            any(_same_relation(x, y) for x in first) for y in second
        )
    ordered = (sympy.StrictLessThan, sympy.LessThan, sympy.StrictGreaterThan, sympy.GreaterThan)
    strict = (sympy.StrictLessThan, sympy.StrictGreaterThan)
    if isinstance(a, ordered) != isinstance(b, ordered):
        return False
    if isinstance(a, ordered):
        if isinstance(a, strict) != isinstance(b, strict):
            return False
        one, other = a.gts - a.lts, b.gts - b.lts
    elif type(a) is type(b):
        one, other = a.lhs - a.rhs, b.lhs - b.rhs
    else:
        return False
    ratio = _constant_ratio(one, other)
    return ratio is not None and (not isinstance(a, ordered) or ratio > 0)


def _constant_ratio(one: Any, other: Any) -> Any:
    import sympy

    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    if one.free_symbols != other.free_symbols or not symbols:
        return None
    ratios = []
    for shift in range(3):
        at = _point(symbols, shift)
        values = [
            sympy.N(_undefined_as_symbols(side).subs(at), _PRECISION) for side in (one, other)
        ]
        if not all(v.is_number and v.is_finite for v in values) or abs(values[1]) < 1e-25:
            return None
        ratios.append(values[0] / values[1])
    first = ratios[0]
    if abs(first) < 1e-25 or not first.is_real:
        return None
    return first if all(abs(r - first) < abs(first) * 1e-12 for r in ratios) else None


def _point(symbols: list[Any], shift: int) -> dict[Any, Any]:
    """Values for the symbols, in general position."""
    import sympy

    return {
        symbol: sympy.Rational(_POINTS[(i + shift) % len(_POINTS)]) + sympy.Rational(i, 3 + shift)
        for i, symbol in enumerate(symbols)
    }


def _undefined_as_symbols(side: Any) -> Any:
    import sympy

    functions = side.atoms(sympy.core.function.AppliedUndef) if hasattr(side, "atoms") else set()
    return side.subs({f: sympy.Symbol(f.func.__name__) for f in functions})


def _equal_at_points(a: Any, b: Any) -> bool | None:
    """Whether both have one value wherever they are looked at; None where they have none."""
    import sympy

    try:
        if a == b:
            return True
        a, b = (_undefined_as_symbols(side) for side in (a, b))
        symbols = sorted(a.free_symbols | b.free_symbols, key=str)
        for shift in range(4 if symbols else 1):
            at = _point(symbols, shift)
            values = []
            for side in (a, b):
                value = sympy.N(
                    side.subs(at).doit()
                    if side.has(sympy.Sum, sympy.Integral, sympy.UnevaluatedExpr)
                    else side.subs(at),
                    _PRECISION,
                )
                if not value.is_number or value.has(sympy.nan, sympy.zoo):
                    return None
                values.append(value)
            if any(v in (sympy.oo, -sympy.oo) for v in values):
                if values[0] != values[1]:
                    return False
                continue
            if all(v.is_real and abs(v) < sympy.Integer(10) ** 5000 for v in values):
                exact = [side.doit() for side in (a, b)]
                if all(side.is_Rational for side in exact):
                    return bool(exact[0] == exact[1])
            floats = a.has(sympy.Float) or b.has(sympy.Float)
            size = max(abs(values[0]), abs(values[1]))
            apart = abs(values[0] - values[1])
            if size != 0 and not apart <= size * (1e-12 if floats else 1e-20):
                return False
        return True
    except (MemoryError, RecursionError):
        raise
    except Exception:  # SymPy raises many things at what it cannot evaluate
        return None


def _rounds_to(a: Any, b: Any, gold_number: Quantity | None, number: Quantity | None) -> bool:
    """A decimal of six places or more is the number that rounds to it, as 1.414214 is a root."""
    import sympy

    for value, written in ((a, number), (b, gold_number)):
        if written is None or written.places is None or written.places < 6 or written.percent:
            continue
        if value.free_symbols or value.is_rational:
            continue
        exact = sympy.N(value, _PRECISION)
        decimal = sympy.Rational(written.value.numerator, written.value.denominator)
        half = sympy.Rational(1, 2) * sympy.Rational(10) ** -written.places
        if exact.is_real and abs(exact - decimal) <= half:
            return True
    return False


def rounds_to(exact: str, decimal: Quantity | None) -> bool:
    """Whether a formula is a number that a decimal gives in fewer places."""
    import sympy

    value = parse(exact)
    if value is None or decimal is None or decimal.percent or value.free_symbols:
        return False
    apart = abs(sympy.N(value, _PRECISION) - sympy.Rational(decimal.value))
    return bool(apart <= sympy.Rational(10) ** -(decimal.places or 0))
