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
        └── RewardError      a reward function raised, hung or returned nonsense

None of them is a KeyError: its message would be printed with the newlines escaped.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing where no known name is close."""
    close = difflib.get_close_matches(name, [str(each) for each in known], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


class TrlDeepseekError(Exception):
    """Root of every error that this package raises on purpose."""


class UserError(TrlDeepseekError):
    """The user's input is wrong; nothing has been run or written yet."""


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


class ConfigError(UserError):
    """An option is unknown, malformed or contradicts another one."""


class DataError(UserError):
    """A data file, row or column is missing or malformed."""


class TemplateError(UserError):
    """A chat template cannot be found, recognised or rendered."""


class ModelError(UserError):
    """A model or tokenizer cannot be loaded from the place the user named."""


class RunError(TrlDeepseekError):
    """The run failed after it had started."""


class RewardError(RunError):
    """A reward function raised, ran out of time or returned something that is not a score."""
