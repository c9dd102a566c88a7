r"""Compare two formulas: math-verify's parser reads them, their values decide.

math-verify alone pays wrong answers: it rounds to six decimals, so that 1/2004! is 1/2006!; it
reads only the right side of an answer's equation; it drops the subscript of ``101_2``; it adds
the numbers of ``2 3``. And it does not pay some right ones.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from trl_deepseek.answers.quantities import Quantity
from trl_deepseek.answers.reading import Reading

# What the parser reads as something else, or reads in part.
_UNREADABLE = re.compile(
    r"^\s*(?:--|\[.*\]\s*$)|\d\s*_|\d\s+\d|\.\d*\.|:|\\text|\.\.\.|[\u4e00-\u9fff?!]{2}|[?@#&~`\"]|(?<![\\A-Za-z])[A-Za-z]{5,}"
    r"|,|;|\d[A-Za-z]\d|\\(?:pm|mp|cup|cap|setminus|in|mid|approx|equiv|ldots)(?![A-Za-z])"
)
_BASE = re.compile(r"([0-9A-Fa-f]+)\s*_\s*(?:\{\s*(?:\\text\s*\{)?\s*(\w+)\s*\}?\s*\}|(\d+))")
_MATRIX = re.compile(r"\\begin\{pmatrix\}.*\\end\{pmatrix\}", re.DOTALL)
_MIXED = re.compile(r"(?<![\d.}^_])(\d+)\s?\\frac\{(\d+)\}\{(\d+)\}")
_CAPITAL = re.compile(r"\\[A-Za-z]+|([A-Z])(?:_(?:(\w)|\{(\w+)\}))?")
_RELATIONS = re.compile(r"(?<!\\)[<>=]|\\(?:le|ge|ne)(?![A-Za-z])")
_POINTS = ("7/5", "-11/7", "13/4", "-17/9", "2/7")
_PRECISION = 40


def load() -> None:
    """Import what the comparison needs; takes about a second."""
    import latex2sympy2_extended
    import math_verify

    del latex2sympy2_extended, math_verify


def prepared(latex: str) -> str:
    """A normalised formula in the words of the parser."""
    text = latex.replace(r"\ne ", r"\neq ").replace(r"\le ", r"\leq ").replace(r"\ge ", r"\geq ")
    text = re.sub(r"(?<![A-Za-z\\])(sqrt|pi|sin|cos|tan|log|ln|exp|infinity|theta)(?![A-Za-z])", r"\\\1", text)  # fmt: skip # noqa: E501
    text = re.sub(r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    text = text.replace(r"\infinity", r"\infty").replace("**", "^")
    text = re.sub(r"\\log\s*_\s*(\d)(?=\D)", r"\\log_{\1}", text)
    text = re.sub(r"\^\s*\(([^()]*)\)", r"^{\1}", text)
    text = re.sub(r"\^\s*(-?\d\d+)", r"^{\1}", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", text)
    # A degree is a number to the parser only where it is told: sin 30° is one half.
    text = re.sub(r"([\d.]+)\s*\^\\circ", r"(\1 \\cdot \\pi/180)", text)
    # To the parser 1\frac{1}{2} is a product.
    text = _MIXED.sub(
        lambda m: f"({m[1]}+\\frac{{{m[2]}}}{{{m[3]}}})" if int(m[2]) < int(m[3]) else m[0], text
    )
    # The parser has no capitals: to it R^2-r^2 is zero.
    text = _CAPITAL.sub(
        lambda m: f"{m[1].lower()}_{{88{m[2] or m[3] or ''}}}" if m[1] else m[0], text
    )
    return re.sub(r"(?<!\\)%", r"\\%", text)


@lru_cache(maxsize=2048)
def parse(latex: str) -> Any:
    """The SymPy object of a formula; None where it cannot be read whole."""
    from latex2sympy2_extended import latex2sympy
    from math_verify.grader import should_treat_as_complex

    text = prepared(latex)
    if len(text) > 3000 or (_UNREADABLE.search(_MATRIX.sub("0", text))):
        return None
    import sympy

    is_complex = should_treat_as_complex(text)
    try:
        found = latex2sympy(
            text, is_real=not is_complex, convert_degrees=False, normalization_config=None
        )
        unit = [s for s in found.free_symbols if is_complex and s.name == "i"]
        return found.subs(unit[0], sympy.I) if unit else found
    except (MemoryError, RecursionError):
        raise
    except Exception:  # whatever a parser raises at what is no formula
        return None


def parses(latex: str) -> bool:
    """Whether a solution's formula can be compared with anything."""
    return _BASE.fullmatch(latex) is not None or parse(latex) is not None or _is_whole(latex)


def _is_whole(latex: str) -> bool:
    """Whether the parser's refusal is about its vocabulary: then it is compared as it stands."""
    return latex.count("{") == latex.count("}") and bool(re.search(r"[A-Za-z0-9]", latex))


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
    if re.sub(r"\s", "", gold) == re.sub(r"\s", "", given):
        return True
    bases = [_BASE.fullmatch(text) for text in (gold, given)]
    if any(bases):
        first, second = ((b[1].lstrip("0"), b[2] or b[3]) if b else None for b in bases)
        return first == second
    a, b = parse(gold), parse(given)
    if a is None or b is None:
        return False
    return _same(a, b, gold_number, number)


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


def same_set(gold: Reading, given: Reading) -> bool:
    """An interval, or several, against what is written as inequalities."""
    import sympy

    sets = []
    for side in (gold, given):
        if side.kind == "list" and " or " in side.text:
            both = [_solutions(item) for item in side.items]
            if None in both:
                return False
            sets.append(sympy.Union(*both))
        elif side.kind == "formula":
            sets.append(_solutions(side))
        elif side.kind in ("brackets", "union"):
            pieces = side.items if side.kind == "union" else (side,)
            union: Any = sympy.S.EmptySet
            for piece in pieces:
                if len(piece.items) != 2 or piece.brackets not in ("()", "[]", "(]", "[)"):
                    return False
                low, high = (parse(item.text) for item in piece.items)
                if low is None or high is None or low.free_symbols or high.free_symbols:
                    return False
                union |= sympy.Interval(
                    low, high, piece.brackets[0] == "(", piece.brackets[1] == ")"
                )
            sets.append(union)
        else:
            return False
    return None not in sets and bool(sets[0] == sets[1])


def _solutions(reading: Reading) -> Any:
    """The real numbers that an inequality in one unknown, or a chain of them, leaves."""
    import sympy

    relation = parse(reading.text) if reading.kind == "formula" else None
    if relation is None or len(getattr(relation, "free_symbols", ())) != 1:
        return None
    found: Any = sympy.S.Reals
    for part in getattr(relation, "_unsorted_args", [relation]):
        if not getattr(part, "is_Relational", False):
            return None
        try:
            found = found.intersect(part.as_set())
        except (NotImplementedError, TypeError, ValueError):
            return None
    return found
