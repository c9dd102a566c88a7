"""How options are written that are neither one word nor a plain list of words."""

from __future__ import annotations

import argparse
import json
from typing import Any

from trl_deepseek.errors import ConfigError

PAIRS = "OLD=NEW"  # the metavar of options that are a mapping of words


def text_or_list(text: str) -> Any:
    """A word, or the list that a JSON list of words stands for."""
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            pass  # a pattern, such as one of layers' names
    return text


def json_object(option: str, value: Any) -> dict[str, Any] | None:
    """The mapping that JSON on the command line stands for; from Python it may be one already.

    Raises:
        ConfigError: It is none.
    """
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        found = value
    if found is not None and not isinstance(found, dict):
        raise ConfigError(f"{option} is {value!r}; it must be a JSON object")
    return found


class OneOrMany(argparse._StoreAction):
    """Stores one word as it is and several as a list, for fields that are ``str | list[str]``."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Store the value."""
        value = values[0] if isinstance(values, list) and len(values) == 1 else values
        super().__call__(parser, namespace, value, option_string)
