"""What can go wrong, one class per thing the user does next.

    TrlDeepseekError
    ├── UserError            the input is wrong: the command line exits with code 2
    │   ├── PluginError      a plugin does not load or breaks the hook contract; has .plugin
    │   ├── UnknownName      no plugin registers that name; has .kind and .name
    │   ├── ConfigError      an option is unknown, malformed or contradicts another
    │   ├── DataError        a file, row or column of the data is missing or malformed
    │   ├── TemplateError    a chat template cannot be found, recognised or rendered
    │   └── ModelError       a model or tokenizer cannot be loaded from where the user said
    └── RunError             the run itself failed: the command line exits with code 1
        ├── NotFinite        a loss, gradient or weight is NaN or infinite; has .rows
        └── RewardError      a reward function raised, hung or returned nonsense

A ConfigError or ModelError is also a ValueError, as TRL and transformers raise there. None
of them is a KeyError: its message would be printed with the newlines escaped.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TypeVar

from trl_deepseek.secrets import redacted

LONGEST = 2000  # characters of a stranger's message that are shown


class TrlDeepseekError(Exception):
    """Root of every error that this package raises on purpose."""


class UserError(TrlDeepseekError):
    """The user's input is wrong; nothing has been run or written yet.

    Attributes:
        place: ``file:line`` of what is wrong, which the message then begins with; None unless it
            was read from a file of settings.
        rows: What is wrong with which rows of a dataset, counted from 0; empty where it is not
            about rows.
        lines: What is wrong with which lines of a data file, by ``file:line``, where it cannot be
            read.
    """

    place: str | None = None
    rows: Mapping[int, str] = MappingProxyType({})
    lines: Mapping[str, str] = MappingProxyType({})

    def __str__(self) -> str:
        return super().__str__() if self.place is None else f"{self.place}: {super().__str__()}"


class PluginError(UserError):
    """A plugin does not load, or breaks the contract of a hook."""

    def __init__(self, plugin: str, message: str) -> None:
        super().__init__(message)
        self.plugin = plugin


class UnknownName(UserError):
    """No plugin registers an item of this kind under this name."""

    def __init__(self, kind: str, name: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.name = name


class ConfigError(UserError, ValueError):
    """An option is unknown, malformed or contradicts another one."""


class DataError(UserError):
    """A data file, row or column is missing or malformed."""


class TemplateError(UserError):
    """A chat template cannot be found, recognised or rendered."""


class ModelError(UserError, ValueError):
    """A model or tokenizer cannot be loaded from the place the user named."""


class RunError(TrlDeepseekError):
    """The run failed after it had started."""


class NotFinite(RunError):
    """A loss, a gradient or a weight is NaN or infinite.

    Attributes:
        rows: Which rows of the batch it is about, from 0; none where that is not known.
    """

    def __init__(self, message: str, rows: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


class RewardError(RunError):
    """A reward function raised, ran out of time or returned something that is not a score."""


Wrong = TypeVar("Wrong", bound=UserError)


def about_rows(error: Wrong, faults: Mapping[int, str]) -> Wrong:
    """The error, which knows what is wrong with which rows."""
    error.rows = dict(faults)
    return error


def describe(error: BaseException) -> str:
    """``Type: message`` on one line, also for an exception whose own ``str`` raises.

    Passwords and the environment's keys in it are hidden. Our own errors are messages for people
    already, and stay as they are.
    """
    if isinstance(error, TrlDeepseekError):
        return str(error)
    try:
        message = str(error)
        cut = "..." if len(message) > LONGEST else ""
        message = " ".join(message[:LONGEST].split()) + cut
    except BaseException as second:  # a stranger's __str__ may raise anything too
        message = f"(its message cannot be shown: {type(second).__name__})"
    return redacted(f"{type(error).__name__}: {message}" if message else type(error).__name__)


@contextlib.contextmanager
def boundary(raises: Callable[[str], TrlDeepseekError], what: str = "") -> Iterator[None]:
    """Around a call of a stranger's code: whatever it raises comes out as one of our errors.

    Only :class:`UserError` and Ctrl-C pass as they are. ``SystemExit`` does not: code that is
    called may not end the process that called it.

        with boundary(RunError, f"noise {name!r} failed"):
            noised = function(embeddings, lengths)

    Args:
        raises: The error's class, or a function from its message to the error.
        what: The message, before ``: Type: message`` of what was raised; that alone when empty.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise raises(f"{what}: {describe(error)}" if what else describe(error)) from error


def did_you_mean(name: object, known: Iterable[str], *, inline: bool = False) -> str:
    """The known name next to a mistyped one, as a line of a message; nothing where none is close.

    Args:
        name: What was written.
        known: What could have been meant.
        inline: Whether to put it in parentheses instead, for the end of a sentence.
    """
    close = difflib.get_close_matches(str(name), list(known), n=1)
    if not close:
        return ""
    hint = f"did you mean {close[0]!r}?"
    return f" ({hint})" if inline else f"\n  {hint}"
