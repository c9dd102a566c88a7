"""How options are written that are neither one word nor a plain list of words."""

from __future__ import annotations

import argparse
import json
from typing import Any

PAIRS = "OLD=NEW"  # the metavar of options that are a mapping of words


def text_or_list(text: str) -> Any:
    """A word, or the list that a JSON list of words stands for."""
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            pass  # a pattern, such as one of layers' names
    return text


class OneOrMany(argparse._StoreAction):
    """Stores one word as it is and several as a list, for fields that are ``str | list[str]``."""

    def __call__(
        self, parser: Any, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Store the value."""
        value = values[0] if isinstance(values, list) and len(values) == 1 else values
        super().__call__(parser, namespace, value, option_string)
