"""How many requests run at once, and how many start in a minute."""

from __future__ import annotations

import asyncio
import time


class Pace:
    """An async context manager around each request.

    Args:
        concurrency: Requests at once.
        per_minute: Requests that may start in a minute, evenly spaced; None for no limit.
    """

    def __init__(self, concurrency: int, per_minute: float | None) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0

    async def __aenter__(self) -> None:
        await self._slots.acquire()
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + self._gap
        try:
            await asyncio.sleep(start - now)
        except BaseException:  # cancelled while waiting: the slot is free again
            self._slots.release()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._slots.release()
