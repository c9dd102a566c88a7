"""math-verify's parser, told what it would misread, and kept from what it reads in part."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

# What the parser reads as something else, or reads in part.
_UNREADABLE = re.compile(
    r"^\s*(?:--|\[.*\]\s*$)|\d\s*_|\d\s+\d|\.\d*\.|:|\\text|\.\.\.|[\u4e00-\u9fff?!]{2}|[?@#&~`\"]|(?<![\\A-Za-z])[A-Za-z]{5,}"
    r"|,|;|\d[A-Za-z]\d|\\(?:pm|mp|cup|cap|setminus|in|mid|approx|equiv|ldots)(?![A-Za-z])"
)
_BASE = re.compile(
    r"\(?([0-9A-Fa-f]+)\)?\s*(?:"
    r"_\s*(?:\{\s*(?:\\text\s*\{)?\s*(?:base\s*\}?\s*)?\(?(\w+)\)?\s*\}?\s*\}|(\d+))"
    r"|\(?(?:\\text\s*\{\s*)?\(?(?:in )?base (\w+)\)?\}?\)?)"
)
_DIGITS = ["", "", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_MATRIX = re.compile(r"\\begin\{[pv]matrix\}.*\\end\{[pv]matrix\}", re.DOTALL)
_MIXED = re.compile(r"(?<![\d.}^_])(\d+)\s?\\frac\{(\d+)\}\{(\d+)\}")
_CAPITAL = re.compile(r"\\[A-Za-z]+|([A-Z])(?:_(?:(\w)|\{(\w+)\}))?")


_CHOOSE = re.compile(
    r"(?:\\text\{)?([CAP])\}?(?:_\{?(\d+)\}?\s*\^\s*\{?(\d+)\}?|\(\s*(\d+)\s*,\s*(\d+)\s*\))"
)


def _arrangements(found: re.Match[str]) -> str:
    r"""C_5^2 and A_5^2, as in Chinese books: \binom{5}{2}, and that times 2!."""
    n, k = found[2] or found[4], found[3] or found[5]
    return rf"\binom{{{n}}}{{{k}}}" + ("" if found[1] == "C" else rf"\cdot {k}!")


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
    text = _CHOOSE.sub(_arrangements, text)
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
        if unit:
            return found.subs(unit[0], sympy.I)
        if isinstance(found, sympy.Expr) and not is_complex:
            return sympy.real_root(found)  # the cube root of -8 is -2
        return found
    except (MemoryError, RecursionError):
        raise
    except Exception:  # whatever a parser raises at what is no formula
        return None


def based(latex: str) -> tuple[str, str] | None:
    """The digits of ``101_2`` and its base; None of a number without one."""
    found = _BASE.fullmatch(latex)
    if not found:
        return None
    base = next(filter(None, found.groups()[1:]))
    return found[1].lstrip("0"), str(_DIGITS.index(base)) if base in _DIGITS else base


def parses(latex: str) -> bool:
    """Whether a solution's formula can be compared with anything."""
    return based(latex) is not None or parse(latex) is not None or _is_whole(latex)


def _is_whole(latex: str) -> bool:
    """Whether the parser's refusal is about its vocabulary: then it is compared as it stands."""
    return latex.count("{") == latex.count("}") and bool(re.search(r"\w", latex))
