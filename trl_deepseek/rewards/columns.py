"""A dataset column that bears the name of a reward's option sets it row by row."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
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
        parameters = inspect.signature(function).parameters
        defaults = {name: parameter.default for name, parameter in parameters.items()}
        others = [name for name, p in parameters.items() if p.kind is p.VAR_KEYWORD]

        def parts(positional: Any, given: Any) -> Iterator[tuple[list[int], dict[str, Any]]]:
            """For rows of equal options: their places, and what to call the function with."""
            arguments = inspect.signature(function).bind(*positional, **given).arguments
            for name in others:
                arguments |= arguments.pop(name, {})
            count = len(arguments["completions"])
            columns = {
                name: arguments.pop(name)
                for name in names
                if name in arguments and _is_column(arguments[name], defaults[name], count)
            }
            if not columns:
                yield list(range(count)), arguments
                return
            rows = [
                {n: _checked(n, v[i], defaults[n], i) for n, v in columns.items()}
                for i in range(count)
            ]
            for options in {repr(row): row for row in rows}.values():
                places = [i for i, row in enumerate(rows) if row == options]
                part = {
                    name: [value[i] for i in places]
                    if isinstance(value, (list, tuple)) and len(value) == count
                    else value
                    for name, value in arguments.items()
                }
                yield places, part | options

        def together(scored: Iterable[tuple[list[int], Sequence[Any]]]) -> list[Any]:
            found = {
                place: score
                for places, scores in scored
                for place, score in zip(places, scores, strict=True)
            }
            return [found[place] for place in range(len(found))]

        @functools.wraps(function)
        def call(*positional: Any, **given: Any) -> Any:
            return together((places, function(**part)) for places, part in parts(positional, given))

        @functools.wraps(function)
        async def call_async(*positional: Any, **given: Any) -> Any:
            return together(
                [(places, await function(**part)) for places, part in parts(positional, given)]
            )

        return cast(Function, call_async if inspect.iscoroutinefunction(function) else call)

    return decorate


def _is_column(value: Any, default: Any, count: int) -> bool:
    """A list with a value for each row; an option that is a pair or a list is one itself."""
    if not isinstance(value, list) or len(value) != count or not value:
        return False
    if not isinstance(default, tuple):
        return True
    return all(row is None or isinstance(row, (list, tuple)) for row in value)


def _checked(name: str, value: Any, default: Any, row: int) -> Any:
    if value is None:
        return default
    if isinstance(default, int) and isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with a gap in it may come as decimals
    wanted = next((kinds for kind, kinds in _KINDS if isinstance(default, kind)), (int, float))
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise ValueError(f"the column {name!r} sets an option, but holds {value!r} in row {row}")
    return tuple(value) if isinstance(value, list) else value


# What a row may hold where the option's default is of a kind; any number where it is None.
_KINDS: tuple[tuple[type, tuple[type, ...]], ...] = (
    (tuple, (list, tuple)),
    (str, (str,)),
    (bool, (bool,)),
    (int, (int,)),
)
