"""What becomes of what a stranger's code raises."""

from __future__ import annotations

import functools

import pytest

from trl_deepseek.errors import (
    ConfigError,
    PluginError,
    RewardError,
    RunError,
    boundary,
    did_you_mean,
)


class Mute(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Deadly(BaseException):
    pass


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (ValueError("two\nlines"), "it failed: ValueError: two lines"),
        (ValueError(), "it failed: ValueError"),
        (SystemExit(0), "it failed: SystemExit: 0"),
        (Deadly("oh"), "it failed: Deadly: oh"),
        (GeneratorExit(), "it failed: GeneratorExit"),
        (StopIteration(3), "it failed: StopIteration: 3"),
        (Mute(), "it failed: Mute: (its message cannot be shown: ZeroDivisionError)"),
        (RewardError("a message\n  a way out"), "it failed: a message\n  a way out"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_is_raised_comes_out_as_the_error_asked_for(
    raised: BaseException, message: str
) -> None:
    with pytest.raises(RunError) as error, boundary(RunError, "it failed"):
        raise raised
    assert str(error.value) == message
    assert error.value.__cause__ is raised


@pytest.mark.parametrize("raised", [ConfigError("as it is"), KeyboardInterrupt()])
def test_input_errors_and_ctrl_c_pass(raised: BaseException) -> None:
    with pytest.raises(type(raised)) as error, boundary(RunError, "it failed"):
        raise raised
    assert error.value is raised


def test_an_error_with_more_than_a_message_is_made_by_a_function() -> None:
    make = functools.partial(PluginError, "mine")
    match = r"^does not load: KeyError: 'x'$"
    with pytest.raises(PluginError, match=match) as error, boundary(make, "does not load"):
        raise KeyError("x")
    assert error.value.plugin == "mine"


def test_the_next_name_is_a_line_or_stands_in_parentheses() -> None:
    known = ["dpo", "orpo"]
    assert did_you_mean("dop", known) == "\n  did you mean 'dpo'?"
    assert did_you_mean("dop", known, inline=True) == " (did you mean 'dpo'?)"
    assert did_you_mean("simpler", known) == did_you_mean(7, []) == ""
