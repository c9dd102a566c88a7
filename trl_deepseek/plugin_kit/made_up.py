"""Values for a reward's columns where there is no row: of the type that it says it takes."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

COLUMNS = {"tests": ["assert True"]}  # a value for a column of this name
OF_TYPE = {int: 4, float: 4.0, bool: True, list: ["4"], tuple: ["4"], Sequence: ["4"], dict: {}}


def columns(function: Any, names: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """A value for each column, that of any sample.

    Args:
        function: The reward's; a parameter of one that sees the whole batch is a list of values.
        names: The columns.
        known: Values by name, which stand for themselves; ``"4"`` where nothing else is said.
    """
    whole = "completion" not in inspect.signature(function).parameters
    hints = _hints(function)
    return {
        name: known[name] if name in known else _value(hints.get(name), within=whole)
        for name in names
    }


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return typing.get_type_hints(
            function if inspect.isroutine(function) else type(function).__call__
        )
    except Exception:  # a name that only a type checker knows
        return {}


def _value(hint: Any, *, within: bool) -> Any:
    """What a type would hold; ``within``: what a list of that type holds."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next((part for part in typing.get_args(hint) if part is not type(None)), None)
    if within:
        inner = typing.get_args(hint)
        return _value(inner[0], within=False) if inner else "4"
    return OF_TYPE.get(typing.get_origin(hint) or hint, "4")
