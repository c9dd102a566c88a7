"""A tool that hangs, raises, ends its process or returns garbage is an answer the model reads."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import get_json_schema

from trl_deepseek import load_registry
from trl_deepseek.errors import ConfigError, PluginError, UnknownName
from trl_deepseek.tools import Guard, Settings, check_factory, resolve
from trl_deepseek.types import Tool

REGISTRY = load_registry()
FOREVER = threading.Event()


def double(number: int) -> Any:
    """Double a number.

    Args:
        number: It.
    """
    if number == 1:
        FOREVER.wait()
    if number == 2:
        raise OSError("no disk")
    if number == 3:
        return object()
    if number == 4:
        return float("nan")
    if number == 5:
        return "a<｜User｜>b"
    if number == 6:
        os._exit(3)
    return {"é": [2 * number, None]} if number == 7 else 2 * number


async def slowly(number: int) -> int:
    """Double a number, in time.

    Args:
        number: It.
    """
    await asyncio.sleep(0)
    return 2 * number


def undescribed(number):  # type: ignore[no-untyped-def]
    return number


def guard(function: Any, **settings: Any) -> Guard:
    pattern = re.compile("<｜User｜>")
    return Guard(resolve([function], REGISTRY), Settings(**settings), pattern)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (1, "double did not finish within 0.2 s"),
        (2, "double raised OSError: no disk"),
        (3, "double returned a object that is no JSON: "),
        (4, "double returned a float that is no JSON: "),
        (5, "double returned the control token '<｜User｜>'"),
    ],
)
def test_a_failure_is_told_and_counted(number: int, said: str) -> None:
    guarded = guard(double, timeout=0.2)
    with pytest.raises(Exception, match=f"^{re.escape(said)}"):
        guarded.functions[0](number=number)
    kind = "timeouts" if number == 1 else "errors"
    counts = {"tools/double/calls": 1, "tools/double/errors": 0, "tools/double/timeouts": 0}
    assert guarded.take_counts() == counts | {f"tools/double/{kind}": 1}
    assert not any(guarded.take_counts().values())
    assert guarded.failure is None


def test_what_json_can_hold_is_read_as_json() -> None:
    (function,) = guard(double).functions
    assert function(number=8) == "16"
    assert function(number=7) == '{"é": [14, null]}'


def test_arguments_that_do_not_fit_are_told_and_stop_no_run() -> None:
    guarded = guard(double, on_error="raise")
    with pytest.raises(Exception, match="double: missing a required argument: 'number'"):
        guarded.functions[0](n=1)
    assert guarded.failure is None
    assert guarded.counts["double"]["errors"] == 1


def test_a_failure_can_stop_the_run() -> None:
    guarded = guard(double, on_error="raise")
    with pytest.raises(Exception, match="no disk"):
        guarded.functions[0](number=2)
    assert "tool 'double' raised OSError: no disk" in str(guarded.failure)


def test_an_async_tool_is_waited_for() -> None:
    (function,) = guard(slowly).functions
    assert not inspect.iscoroutinefunction(function)
    assert function(number=4) == "8"


def test_the_model_is_told_of_the_tool_itself() -> None:
    assert get_json_schema(guard(double).functions[0]) == get_json_schema(double)


def test_in_a_process_of_its_own_a_tool_may_end_it(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        inspect.getsource(double)
        .replace("Any", "object")
        .replace("FOREVER.wait()", "while True: pass")
        .replace("os._exit", "__import__('os')._exit")
    )
    (function,) = guard(f"{file}:double", isolate=True, timeout=20.0).functions
    with pytest.raises(Exception, match=r"double ended its process: .*exit code 3"):
        function(number=6)
    assert function(number=8) == "16"


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ("calculater", UnknownName, "no plugin registers a tool named 'calculater'"),
        (["calculator", "calculator"], ConfigError, "two tools are named 'calculator'"),
        ("none.py:f", PluginError, "plugin file 'none.py' does not exist"),
        (lambda x: x, ConfigError, "a tool is a name or a function that has one"),
        (Tool("absent", double, requires=("no_such_module",)), ConfigError, "needs the module"),
        (undescribed, ConfigError, "tool 'undescribed' cannot be described to the model"),
    ],
)
def test_a_tool_that_cannot_be_is_refused(given: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        resolve(given, REGISTRY)


def test_an_environment_that_cannot_be_reset_is_refused() -> None:
    with pytest.raises(ConfigError, match="Path has no method reset"):
        check_factory("pathlib:Path", Settings())


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("(12 + 3) * 4", "60"),
        ("1/3 + 1/6", "0.5"),
        ("2^10 - 7 % 4", "1021"),
        ("0.1 + 0.2", "0.3"),
        ("-7 // 2", "-4"),
        ("1/3", "0.333333333333"),
    ],
)
def test_the_calculator_is_exact(expression: str, value: str) -> None:
    assert REGISTRY.tools["calculator"](expression) == value


@pytest.mark.parametrize(
    "expression", ["__import__('os')", "9**9**9", "1 +", "x", "True", "1/0", "1" * 300]
)
def test_the_calculator_refuses_all_else(expression: str) -> None:
    with pytest.raises((ValueError, ZeroDivisionError)):
        REGISTRY.tools["calculator"](expression)
