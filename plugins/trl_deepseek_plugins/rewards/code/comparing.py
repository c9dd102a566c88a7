"""Whether what came out of the sandbox is what a test expects: a value, or a program's output.

Output is compared line by line, white space at the ends aside, and on a line of numbers, or with a
decimal number in it, word by word; a decimal number may differ by a tolerance if one is given. The
harness of APPS allows a hundred-thousandth (numpy's ``allclose``), of whole numbers too, and
LiveCodeBench's takes ``1.0`` for ``1``; here a whole number is always written as one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trl_deepseek_plugins.rewards.code.inside import wire

_WHOLE = re.compile(r"[+-]?[0-9]{1,300}")
_DECIMAL = re.compile(
    r"[+-]?[0-9]{1,300}(\.[0-9]{1,300}([eE][+-]?[0-9]{1,3})?|[eE][+-]?[0-9]{1,3})"
)


def same_output(result: Sequence[Any], expected: str, tolerance: float = 0.0) -> bool:
    """Whether a program's output is the expected one.

    Args:
        result: Its digest, and itself where it is short enough, as the harness gives them.
        expected: As :func:`.wire.plain` has it.
        tolerance: Largest difference of a decimal number, of numbers beyond 1 as a share of them.
    """
    digest, text = result
    if digest == wire.digest(expected):
        return True
    if not isinstance(text, str):
        return False
    said, wanted = text.split("\n"), expected.split("\n")
    return len(said) == len(wanted) and all(
        _same_line(one, other, tolerance) for one, other in zip(said, wanted, strict=True)
    )


def _same_line(said: str, wanted: str, tolerance: float) -> bool:
    if said == wanted:
        return True
    words = wanted.split()
    numbers = [bool(_DECIMAL.fullmatch(word)) for word in words]
    if not any(numbers) and not all(map(_WHOLE.fullmatch, words)):
        return False
    found = said.split()
    return len(found) == len(words) and all(
        one == other or (number and _is_number(one) and _close(float(one), float(other), tolerance))
        for one, other, number in zip(found, words, numbers, strict=True)
    )


def _is_number(word: str) -> bool:
    return bool(_WHOLE.fullmatch(word) or _DECIMAL.fullmatch(word))


def _close(said: float, wanted: float, tolerance: float) -> bool:
    size = max(1.0, abs(wanted))
    return tolerance > 0 and math.isfinite(wanted) and abs(said - wanted) <= tolerance * size


def equal(actual: Any, expected: Any) -> bool:
    """Whether a value from the sandbox is what JSON expects: tuples are lists, keys are texts."""
    if isinstance(actual, list):
        kind, *items = actual or [None]
        if kind == "like":
            return equal(items[0], expected)
        if kind == "named":
            return equal(["tuple", *items[2:]], expected)
        if kind == "int":
            return isinstance(expected, int) and expected == int(items[0], 16)
        if kind == "dict":
            keys, values = items[::2], items[1::2]
            if not isinstance(expected, Mapping) or len(keys) != len(expected):
                return False
            found = {str(key): value for key, value in zip(keys, values, strict=True)}
            wanted = {str(key): value for key, value in expected.items()}
            return found.keys() == wanted.keys() and all(
                equal(found[key], wanted[key]) for key in wanted
            )
        return (
            kind in ("list", "tuple")
            and isinstance(expected, Sequence)
            and not isinstance(expected, str)
            and len(items) == len(expected)
            and all(map(equal, items, expected))
        )
    if isinstance(actual, float) and isinstance(expected, (int, float)):
        return actual == expected or math.isclose(actual, expected, rel_tol=1e-9)
    return (type(actual) is type(expected) and actual == expected) or (
        not isinstance(actual, bool)
        and isinstance(actual, int)
        and isinstance(expected, float)
        and actual == expected
    )
