"""An entry of reasoning-gym as text and back, so that a column of a dataset can hold it.

Its metadata are of another make in each task, and its scores compare tuples with tuples and look
numbers up in mappings, neither of which JSON has; so both are marked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

TUPLE, ITEMS = "__tuple__", "__items__"


def packed(entry: Mapping[str, Any]) -> str:
    """An entry as JSON."""
    return json.dumps(_marked(entry), ensure_ascii=False)


def unpacked(text: str) -> dict[str, Any]:
    """What :func:`packed` packed."""
    found: dict[str, Any] = json.loads(text, object_hook=_unmarked)
    return found


def _marked(value: Any) -> Any:
    if isinstance(value, tuple):
        return {TUPLE: [_marked(each) for each in value]}
    if isinstance(value, list):
        return [_marked(each) for each in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _marked(each) for key, each in value.items()}
        return {ITEMS: [[_marked(key), _marked(each)] for key, each in value.items()]}
    return value


def _unmarked(value: dict[str, Any]) -> Any:
    if value.keys() == {TUPLE}:
        return tuple(value[TUPLE])
    if value.keys() == {ITEMS}:
        return dict(value[ITEMS])
    return value
