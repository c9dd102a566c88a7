"""Ask a function for what it remembers, and have it remember that again, also in a worker."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trl_deepseek.errors import describe


@dataclass(frozen=True)
class Remember:
    """Ask a worker for the state of ``key``; or to take ``state`` back, pickled as it gave it.

    Pickled by themselves, since tensors would else be shared between the two processes.
    """

    key: str
    state: bytes | None = None


def holder_of(item: Any) -> Any:
    """The object behind a function, method, partial or registered item that keeps a state.

    It is the one that offers ``state_dict()`` and ``load_state_dict(state)``; None where none does.
    A module's are its weights, which whoever trains it saves.
    """
    while True:
        offers = [getattr(item, name, None) for name in ("state_dict", "load_state_dict")]
        if all(map(callable, offers)):
            return None if isinstance(item, type) or hasattr(item, "named_parameters") else item
        inside = behind(item)
        if inside is None:
            return None
        item = inside


def behind(item: Any) -> Any:
    """What a partial, a bound method or a registered item is made of; None for anything else."""
    if isinstance(item, functools.partial):
        return item.func
    owner = getattr(item, "__self__", None)
    if owner is not None:
        return None if isinstance(owner, type) or not hasattr(owner, "__dict__") else owner
    inside: Callable[..., Any] | None = getattr(item, "function", None)
    return inside if callable(inside) else None


def answer(request: Remember, function: Callable[..., Any]) -> tuple[str | None, bytes | None]:
    """In a worker: what went wrong, or None; and the state that was asked for, pickled."""
    try:
        holder = holder_of(function)
        if request.state is not None:
            return None, holder.load_state_dict(pickle.loads(request.state))
        return None, pickle.dumps(holder.state_dict())
    except BaseException as error:  # a stranger's methods may raise anything
        return describe(error), None
