"""A dataset column that bears the name of a reward's option sets it row by row."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


def options_from_columns(*names: str) -> Callable[[Function], Function]:
    """Let a batch reward take these options from columns, which arrive as lists, one per row.

    Rows with equal options are scored together. None in a row leaves the option as it is by
    default. Only for rewards that score each sample by itself.

    Raises:
        ValueError: A row holds what the option cannot be, when the reward is called.
    """

    def decorate(function: Function) -> Function:
        defaults = {
            name: parameter.default
            for name, parameter in inspect.signature(function).parameters.items()
        }

        @functools.wraps(function)
        def call(*positional: Any, **given: Any) -> Any:
            arguments = inspect.signature(function).bind(*positional, **given).arguments
            rest = arguments.pop("_", {})
            completions = arguments["completions"]
            columns = {
                name: arguments.pop(name)
                for name in names
                if name in arguments and _is_column(arguments[name], defaults[name], completions)
            }
            if not columns:
                return function(**arguments, **rest)
            rows = [
                {n: _checked(n, v[i], defaults[n], i) for n, v in columns.items()}
                for i in range(len(completions))
            ]
            scores: list[Any] = [None] * len(rows)
            for options in {repr(row): row for row in rows}.values():
                places = [i for i, row in enumerate(rows) if row == options]
                part = {
                    name: [value[i] for i in places]
                    if isinstance(value, (list, tuple)) and len(value) == len(rows)
                    else value
                    for name, value in {**rest, **arguments}.items()
                }
                for place, score in zip(places, function(**part, **options), strict=True):
                    scores[place] = score
            return scores

        return cast(Function, call)

    return decorate


def _is_column(value: Any, default: Any, completions: Any) -> bool:
    """A list with a value for each row; an option that is a pair or a list is one itself."""
    if not isinstance(value, list) or len(value) != len(completions) or not value:
        return False
    if not isinstance(default, tuple):
        return True
    return all(row is None or isinstance(row, (list, tuple)) for row in value)


def _checked(name: str, value: Any, default: Any, row: int) -> Any:
    if value is None:
        return default
    wanted = (
        (list, tuple)
        if isinstance(default, tuple)
        else str
        if isinstance(default, str)
        else (int, float)
    )
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise ValueError(f"the column {name!r} sets an option, but holds {value!r} in row {row}")
    return tuple(value) if isinstance(value, list) else value
