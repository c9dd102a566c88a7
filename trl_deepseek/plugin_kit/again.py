"""Whether a reward scores the same when it is asked again, or says what it remembers."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable, Sequence
from typing import Any

from trl_deepseek.workers.calls import Outcome


def frozen(function: Any) -> bytes | None:
    """A reward's function as it is now; None where it does not pickle, which is another fault."""
    try:
        return pickle.dumps(function)
    except Exception:
        return None


def differs(
    function: Any, ask: Callable[[Any], Sequence[Outcome]], said: Sequence[str]
) -> str | None:
    """How the scores of the same completions differ, None where they do not.

    Args:
        function: Of a reward, not called yet. One with ``state_dict()`` and
            ``load_state_dict(state)`` is asked again with what it remembered the first time.
        ask: Gives the scores of ``said``.
        said: The completions.
    """
    keeps = hasattr(function, "state_dict") and hasattr(function, "load_state_dict")
    state = copy.deepcopy(function.state_dict()) if keeps else None
    first = ask(function)
    if keeps:
        function.load_state_dict(state)
    for text, one, other in zip(said, first, ask(function), strict=True):
        if one == other:
            continue
        found = f"{text!r} scored {one}, then {other}"
        if keeps:
            return f"{found} from the same state_dict()"
        if inspect.isroutine(function):
            return found
        return (
            f"{found}\nwhat an object remembers is lost where a run goes on: state_dict() and "
            "load_state_dict(state) keep it"
        )
    return None
