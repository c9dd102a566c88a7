"""Make one call of a tool within its time: in a thread, or in a process that can be killed.

Python cannot stop a thread: one that outlives its deadline is left behind, as a daemon. A tool that
may hang often belongs in a process of its own (``isolate``).
"""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trl_deepseek.errors import ConfigError, describe
from trl_deepseek.types import Tool
from trl_deepseek.workers.calls import run_to_end
from trl_deepseek.workers.shipping import ship
from trl_deepseek.workers.time_limit import Unfinished, call_each

FOREVER = 1e6  # seconds, where there is no limit

Call = Callable[[Mapping[str, Any]], "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What one call gave: ``text``, or a ``failure`` in words, perhaps for lack of time."""

    text: str = ""
    failure: str | None = None
    timed_out: bool = False


def perform(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Outcome:
    """Make the call in this thread; never raises for what the tool does."""
    try:
        value = function(**arguments)
        if inspect.isawaitable(value):
            value = run_to_end(value)
    except BaseException as error:  # a tool may raise anything; all of it is a failure
        return Outcome(failure=f"raised {describe(error)}")
    return as_text(value)


def as_text(value: Any) -> Outcome:
    """An output as the model reads it: text as it is, everything else as JSON."""
    if isinstance(value, str):
        return Outcome(value)
    try:
        return Outcome(json.dumps(value, ensure_ascii=False, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        return Outcome(failure=f"returned a {type(value).__name__} that is no JSON: {error}")


def in_thread(tool: Tool, timeout: float | None) -> Call:
    """Calls of a tool in this process, each in a thread of its own."""

    def call(arguments: Mapping[str, Any]) -> Outcome:
        found: list[Outcome] = []

        def work() -> None:
            found.append(perform(tool.function, arguments))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(timeout)
        return found[0] if found else _late(timeout)

    return call


def isolated(tool: Tool, timeout: float | None) -> Call:
    """Calls of a tool in a worker process.

    Raises:
        ConfigError: The tool cannot be found again there.
    """
    load = _Load(tool.function, tool.name)
    try:
        ship(load, tool.name)
    except ConfigError as error:
        raise ConfigError(str(error).replace("reward ", "tool ", 1)) from error

    def call(arguments: Mapping[str, Any]) -> Outcome:
        (found,) = call_each(load, [dict(arguments)], FOREVER if timeout is None else timeout)
        if isinstance(found, Outcome):
            return found
        assert isinstance(found, Unfinished)
        late = found.reason.startswith("not done")
        return _late(timeout) if late else Outcome(failure=f"ended its process: {found.reason}")

    return call


def _late(timeout: float | None) -> Outcome:
    return Outcome(failure=f"did not finish within {timeout:g} s", timed_out=True)


class _Load:
    """Takes a tool's function to a worker, and performs calls of it there."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.__qualname__ = name

    def __call__(self) -> Callable[[Mapping[str, Any]], Outcome]:
        return self._perform

    def _perform(self, arguments: Mapping[str, Any]) -> Outcome:
        return perform(self.function, arguments)
