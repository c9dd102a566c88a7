"""When a program's output is the expected one: how numbers and white space are compared."""

from __future__ import annotations

import pytest

from trl_deepseek.sandbox import running as sandbox
from trl_deepseek_plugins.rewards.code import code_tests
from trl_deepseek_plugins.rewards.code.comparing import same_output
from trl_deepseek_plugins.rewards.code.inside import wire

# Said and expected: the same text but for white space beside it or between numbers.
EXACT = [
    ("1  2 3", "1 2 3"),
    (" 1 2", "1 2"),
    ("\N{GRINNING FACE}", "\N{GRINNING FACE}"),
    ("0.30", "0.30"),
    ("", ""),
]
# Within a millionth, as the checkers of APPS, CodeContests and LiveCodeBench agree.
CLOSE = [
    ("0.333333", "0.33333333333"),
    ("1.00", "1.0"),
    ("1", "1.0"),
    ("-0.0", "0.000"),
    ("Case #1: 0.5", "Case #1: 0.50"),
    ("2.5e-3", "0.0025"),
    ("1234567890123.46", "1234567890123.4567"),
    ("a\n1.0\n\n", "a\n1.00"),
    ("0.30000000000000004", "0.3"),
    ("3.140000", "3.14"),
]
# What one of them pays, or what is plainly wrong, with a tolerance of 1e-9.
OTHER = [
    ("0.3334", "0.33333333333"),
    ("1.0", "1"),  # a whole number was asked for
    ("1000000.9", "1000000.5"),  # within a millionth of it
    ("100001", "100000"),  # numpy's allclose
    ("12345678.0", "12345679"),
    ("0.0", "0.0000001"),
    ("nan", "1.0"),
    ("inf", "1.0"),
    ("7.0", "1e999"),
    ("0x1p0", "1.0"),
    ("1_0.0", "10.0"),
    ("3 4", "3\n4"),
    ("3\n4", "3 4"),
    ("0.5", "0.5 1.0"),
    ("0.5 1.0", "0.5"),
    ("yes 0.5", "no 0.5"),
    ("a  b", "a b"),
    (" *\n***", "*\n***"),
    ("", "0.0"),
    ("\N{ARABIC-INDIC DIGIT THREE}.0", "3.0"),
    ("v1.2.3", "v1.2.30"),
]


def same(said: str, expected: str, tolerance: float = 0.0, short: bool = True) -> bool:
    text, wanted = (wire.plain(each.encode()) for each in (said, expected))
    return same_output([wire.digest(text), text if short else None], wanted, tolerance)


@pytest.mark.parametrize(("said", "expected"), EXACT)
def test_it_is_the_same(said: str, expected: str) -> None:
    assert same(said, expected)


@pytest.mark.parametrize(("said", "expected"), CLOSE)
def test_it_is_the_same_only_with_a_tolerance(said: str, expected: str) -> None:
    assert same(said, expected, tolerance=1e-6)
    assert not same(said, expected)


@pytest.mark.parametrize(("said", "expected"), OTHER)
def test_it_is_another(said: str, expected: str) -> None:
    assert not same(said, expected, tolerance=1e-9)


def test_a_long_output_has_to_be_the_same_text() -> None:
    assert same("1.0", "1.0", short=False)
    assert not same("1.00", "1.0", short=False)


@pytest.mark.skipif(sandbox.unavailable() is not None, reason="no sandbox here")
def test_rounding_is_allowed_where_it_is_said_and_rows_may_set_limits() -> None:
    code = "```python\nprint(1 / 3)\n```"
    tests = [{"input": "", "output": "0.3333333"}, {"input": "", "output": "0.33"}]
    assert code_tests([code], [tests]) == [0.0]
    assert code_tests([code], [tests], tolerance=1e-6) == [0.5]
    both = code_tests(
        [code] * 3,
        [tests] * 3,
        all_or_nothing=[False, True, None],  # type: ignore[arg-type]
        tolerance=1e-6,
    )
    assert both == [0.5, 0.0, 0.5]
    with pytest.raises(ValueError, match="column 'seconds' sets an option, but holds 'x' in row 1"):
        code_tests([code] * 2, [tests] * 2, seconds=[1.0, "x"])  # type: ignore[arg-type]
