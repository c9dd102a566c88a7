"""Attributes that are others for a while: of a trainer, or names in a module of a library."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replaced(owner: Any, **attributes: Any) -> Iterator[None]:
    """Within it, ``owner``, an instance or a module, has these attributes; then its own again."""
    before = dict(vars(owner))
    vars(owner).update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            if name in before:
                vars(owner)[name] = before[name]
            else:
                del vars(owner)[name]
