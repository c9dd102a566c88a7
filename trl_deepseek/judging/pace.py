"""How many requests may start in a minute."""

from __future__ import annotations

import asyncio
import threading
import time


class Pace:
    """Spaces requests evenly; one object for all that share an endpoint's limit.

    Args:
        per_minute: Requests that may start in a minute.
    """

    def __init__(self, per_minute: float) -> None:
        self._gap = 60.0 / per_minute
        self._next = 0.0
        self._lock = threading.Lock()  # calls may come from several event loops

    async def wait(self, *_: object) -> None:
        """Return when the next request may start."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + self._gap
        await asyncio.sleep(start - now)
