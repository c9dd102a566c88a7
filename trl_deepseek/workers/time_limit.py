"""Call a function on many items in a helper process, each within a time limit that always holds.

Signals interrupt Python only between two bytecodes and only in the main thread; a power tower in
an answer is one endless operation in C, and rewards run in threads. Here the operating system
ends the helper process itself when an item's time is up, and the next item gets a new one.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trl_deepseek.workers.process import Died, WorkerProcess
from trl_deepseek.workers.shipping import ship

MEMORY = 4 << 30  # bytes of private memory a helper may take
GRACE = 5.0  # seconds after which the parent ends a helper that its own timer has not ended

Factory = Callable[[], Callable[[Any], Any]]


@dataclass(frozen=True)
class Unfinished:
    """Stands for the result of an item whose process ended before it; ``reason`` is for people."""

    reason: str


def call_each(factory: Factory, items: Sequence[Any], seconds: float) -> list[Any]:
    """The results of ``factory()(item)`` for each item, or :class:`Unfinished` in its place.

    Args:
        factory: A module-level function that imports what is needed, without a time limit, and
            returns the function to call. It runs once in each helper process.
        items: Anything that pickles.
        seconds: Wall time that each item may take.

    Raises:
        RuntimeError: The factory failed, or the function raised; with its traceback.
    """
    results: list[Any] = []
    while len(results) < len(items):
        helper = _take(factory)
        try:
            whole = _ask(helper, factory, items[len(results) :], seconds, results)
        except BaseException:  # Ctrl-C included: what is half read cannot be used again
            helper.kill()
            raise
        if whole:
            _give_back(factory, helper)
    return results


def _ask(
    helper: WorkerProcess,
    factory: Factory,
    items: Sequence[Any],
    seconds: float,
    results: list[Any],
) -> bool:
    """Add results up to the first item that the helper does not survive; whether it lives on."""
    try:
        helper.ask(factory.__qualname__, items, seconds)
    except Died:  # while it was idle, so it is no item's fault
        helper.kill()
        return False
    try:
        for _ in items:
            failure, result = helper.answer(seconds + GRACE)
            if failure:
                raise RuntimeError(failure)
            results.append(result)
    except Died:
        helper.kill()
        results.append(Unfinished(_reason(helper.returncode or 0, seconds)))
        return False
    return True


def _reason(code: int, seconds: float) -> str:
    if code == -signal.SIGALRM or code == -signal.SIGKILL:
        return f"not done within {seconds:g} s"
    return (
        f"its process ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
    )


# Idle helpers of this process by factory: starting one takes about a second.
_idle: dict[Factory, list[WorkerProcess]] = {}
_lock = threading.Lock()


def _take(factory: Factory) -> WorkerProcess:
    with _lock:
        waiting = _idle.setdefault(factory, [])
        while waiting:
            helper = waiting.pop()
            if helper.alive():
                return helper
            helper.kill()  # it was ended from outside; what it started may still live
    # Rewards run in threads that end with their batch, which the helper has to outlive.
    helper = WorkerProcess(MEMORY, __name__, tied=False)
    try:
        helper.define(factory.__qualname__, ship(factory, factory.__qualname__), make=True)
    except Died as death:
        helper.kill()
        raise RuntimeError(
            f"the helper process for {factory.__qualname__} failed: {death}\n{death.failure.detail}"
        ) from death
    return helper


def _give_back(factory: Factory, helper: WorkerProcess) -> None:
    with _lock:
        _idle.setdefault(factory, []).append(helper)


def _idle_ones() -> list[WorkerProcess]:
    found = [helper for helpers in _idle.values() for helper in helpers]
    _idle.clear()
    return found


def _close_all() -> None:
    with _lock:
        for helper in _idle_ones():
            helper.kill()


def _forget_all() -> None:
    global _lock
    _lock = threading.Lock()  # the parent's may have been held by another thread
    for helper in _idle_ones():
        helper.forget()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
