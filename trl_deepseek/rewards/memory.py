"""What a reward remembers from call to call, for a checkpoint.

A reward that offers ``state_dict()`` and ``load_state_dict(state)`` is asked, in the process where
it runs. Of any other object it is seen, as far as its attributes show it, that it has changed since
the run began; a run that goes on from a checkpoint then says that this is lost.
"""

from __future__ import annotations

import inspect
import logging
import pickle
from typing import Any

from trl_deepseek.workers.remembering import behind, holder_of

logger = logging.getLogger(__name__)


class Memory:
    """The memory of one reward.

    Args:
        function: The reward.
        elsewhere: What runs it in another process, with ``take_state`` and ``give_state``; None
            where it runs in this one.

    Attributes:
        holder: The object that offers the two methods; None where none does.
    """

    def __init__(self, function: Any, elsewhere: Any) -> None:
        self.holder = holder_of(function)
        self._elsewhere = elsewhere
        self._function = function
        self._begun = None if elsewhere else fingerprint(function)

    def take(self) -> dict[str, Any]:
        """``state``; or ``forgets``, whether it has changed in a way that cannot be kept."""
        if self.holder is None:
            changed = self._begun is not None and fingerprint(self._function) != self._begun
            return {"forgets": changed}
        asked = self._elsewhere.take_state() if self._elsewhere else self.holder.state_dict()
        return {"state": asked}

    def give(self, held: dict[str, Any], name: str) -> None:
        """Have the reward remember what :meth:`take` returned; what is lost is said."""
        if held.get("forgets"):
            logger.warning(
                "%s had changed since the run began, and the checkpoint does not hold how: it "
                "begins anew, and the run goes on differently where its scores depend on it\n"
                "  state_dict() and load_state_dict(state) would keep what it remembers",
                name,
            )
        if self.holder is None or "state" not in held:
            return
        if self._elsewhere:
            self._elsewhere.give_state(held["state"])
        else:
            self.holder.load_state_dict(held["state"])


def fingerprint(function: Any) -> bytes | None:
    """The attributes of a reward that is an object, to be compared later; None for a function."""
    owner = function
    while (inside := behind(owner)) is not None:
        owner = inside
    if inspect.isroutine(owner) or inspect.isclass(owner):
        return None
    try:
        return pickle.dumps(vars(owner))
    except Exception:  # whatever an attribute raises: then nobody can tell
        return None
