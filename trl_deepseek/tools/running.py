"""Make one call of a tool within its time: in a thread, or in a process that can be killed.

Python cannot stop a thread: one that outlives its deadline is left behind, as a daemon. A tool that
may hang often belongs in a process of its own (``isolate``).
"""

from __future__ import annotations

import functools
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


@dataclass(frozen=True)
class Attempt:
    """As :class:`Outcome`, with the value itself."""

    value: Any = None
    failure: str | None = None
    timed_out: bool = False

    def as_text(self) -> Outcome:
        """What the model reads of it."""
        if self.failure is not None:
            return Outcome(failure=self.failure, timed_out=self.timed_out)
        return as_text(self.value)


def attempt(work: Callable[[], Any], timeout: float | None) -> Attempt:
    """Do work in a thread of its own; never raises for what it does."""
    found: list[Attempt] = []

    def run() -> None:
        found.append(_done(work))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    return found[0] if found else Attempt(failure=_late(timeout), timed_out=True)


def _done(work: Callable[[], Any]) -> Attempt:
    try:
        value = work()
        return Attempt(run_to_end(value) if inspect.isawaitable(value) else value)
    except BaseException as error:  # a tool may raise anything; all of it is a failure
        return Attempt(failure=f"raised {describe(error)}")


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
        return attempt(functools.partial(tool.function, **arguments), timeout).as_text()

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
        if late:
            return Outcome(failure=_late(timeout), timed_out=True)
        return Outcome(failure=f"ended its process: {found.reason}")

    return call


def _late(timeout: float | None) -> str:
    return f"did not finish within {timeout:g} s"


class _Load:
    """Takes a tool's function to a worker, and performs calls of it there."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.__qualname__ = name

    def __call__(self) -> Callable[[Mapping[str, Any]], Outcome]:
        return self._perform

    def _perform(self, arguments: Mapping[str, Any]) -> Outcome:
        return _done(functools.partial(self.function, **arguments)).as_text()
