"""Call a function on many items in a helper process, each within a time limit that always holds.

Signals interrupt Python only between two bytecodes and only in the main thread; a power tower in
an answer is one endless operation in C, and rewards run in threads. Here the operating system
ends the helper process itself when an item's time is up, and the next item gets a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

MEMORY = 4 << 30  # bytes of address space a helper may take
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
            results += helper.run(items[len(results) :], seconds)
        except BaseException:  # Ctrl-C included: what is half read cannot be used again
            helper.close()
            raise
        if helper.alive:
            _give_back(factory, helper)
    return results


class _Helper:
    """One helper process, and our end of the pipe to it."""

    def __init__(self, factory: Factory) -> None:
        self.connection, theirs = Pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        theirs.close()
        self.alive = True
        try:
            self.connection.send_bytes(pickle.dumps(factory))
            failure = self.connection.recv()
        except (EOFError, OSError):
            failure = "it ended before it was ready"
        if failure:
            self.close()
            raise RuntimeError(f"the helper process for {factory.__qualname__} failed: {failure}")

    def run(self, items: Sequence[Any], seconds: float) -> list[Any]:
        """Results up to the first item that the process did not survive, that one included."""
        self.connection.send((seconds, list(items)))
        results: list[Any] = []
        for _ in items:
            try:
                if not self.connection.poll(seconds + GRACE):
                    self.process.kill()
                failure, result = self.connection.recv()
            except (EOFError, OSError):
                self.close()
                return [*results, Unfinished(_reason(self.process.returncode, seconds))]
            if failure:
                raise RuntimeError(failure)
            results.append(result)
        return results

    def close(self) -> None:
        """End the process, however busy it is."""
        self.alive = False
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def forget(self) -> None:
        """In a forked child: let go of the parent's helper without ending it."""
        with contextlib.suppress(OSError):
            self.connection.close()
        self.process.returncode = 0  # not ours to wait for


def _reason(code: int, seconds: float) -> str:
    if code == -signal.SIGALRM or code == -signal.SIGKILL:
        return f"not done within {seconds:g} s"
    return (
        f"its process ended with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
    )


# Idle helpers of this process by factory: starting one takes about a second.
_idle: dict[Factory, list[_Helper]] = {}
_lock = threading.Lock()


def _take(factory: Factory) -> _Helper:
    with _lock:
        waiting = _idle.get(factory)
        if waiting:
            return waiting.pop()
    return _Helper(factory)


def _give_back(factory: Factory, helper: _Helper) -> None:
    with _lock:
        _idle.setdefault(factory, []).append(helper)


def _close_all() -> None:
    with _lock:
        for helper in [helper for helpers in _idle.values() for helper in helpers]:
            helper.close()
        _idle.clear()


def _forget_all() -> None:
    global _lock
    _lock = threading.Lock()  # the parent's may have been held by another thread
    for helper in [helper for helpers in _idle.values() for helper in helpers]:
        helper.forget()
    _idle.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)


def _serve(connection: Connection) -> None:
    """The helper's life: load the factory, then answer batches until the parent hangs up."""
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, even inside C code
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    with contextlib.suppress(ValueError, OSError):  # macOS knows no such limit
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    try:
        function = pickle.loads(connection.recv_bytes())()
    except BaseException:
        connection.send(traceback.format_exc())
        return
    connection.send("")
    while True:
        seconds, items = connection.recv()
        for item in items:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            try:
                answer = ("", function(item))
            except Exception:
                answer = (traceback.format_exc(), None)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send(answer)


if __name__ == "__main__":
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        _serve(Connection(int(sys.argv[1])))
