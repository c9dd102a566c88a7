"""Run rewards in the training process, each in a thread of its own, with a deadline.

Python cannot stop a thread. One that outlives its deadline is left behind (as a daemon, so that it
does not keep the process from ending) and a fresh one scores the rest. A reward that may hang
often, crash the interpreter or eat the memory belongs in a worker process: see ``pool``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from trl_deepseek.workers.calls import Call, Failure, Result, perform, perform_async, run_to_end

# Seconds that an event loop gets, past the deadline, to cancel what overran it.
GRACE = 0.5
# After so many calls in a row that overran, the rest of a batch is not tried.
GIVE_UP = 8


def timed_out(timeout: float) -> Failure:
    """The failure of a call that overran ``timeout`` seconds."""
    return Failure("timeout", f"did not finish within {timeout:g} s")


def _overran(call: Call, timeout: float | None) -> Result:
    return call.failed(timed_out(timeout or 0), timeout or 0)


NOT_TRIED = Failure("timeout", "not tried, since the calls before it did not end well")


class ThreadRunner:
    """Makes calls of a synchronous reward one after another."""

    def __init__(
        self,
        function: Callable[..., Any],
        timeout: float | None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self._function = function
        self._timeout = timeout
        self._prepare = prepare

    def run(self, calls: Sequence[Call], stop_early: bool = False) -> list[Result]:
        """Make the calls; blocks for as long as they take, or their deadlines.

        Args:
            calls: What to call the reward with.
            stop_early: Whether to make no further call after one that failed.
        """
        results: list[Result] = []
        overran = 0
        while len(results) < len(calls):
            attempt = _Attempt(self._function, calls[len(results) :], stop_early, self._prepare)
            done = attempt.wait(self._timeout)
            overran = overran + 1 if not done else 0
            results += done
            if attempt.finished.is_set():
                break
            results.append(_overran(calls[len(results)], self._timeout))
            if stop_early or overran == GIVE_UP:
                break
        rest = calls[len(results) :]
        return results + [call.failed(NOT_TRIED) for call in rest]

    def close(self) -> None:
        """Nothing is held between calls."""


class _Attempt:
    """One thread that makes calls until it ends or is given up."""

    def __init__(
        self,
        function: Callable[..., Any],
        calls: Sequence[Call],
        stop_early: bool,
        prepare: Callable[[], None] | None,
    ) -> None:
        self.finished = threading.Event()
        self._results: list[Result] = []
        self._started = time.monotonic()
        self._abandoned = False

        def work() -> None:
            if prepare is not None:
                prepare()
            for call in calls:
                self._started = time.monotonic()
                result = perform(function, call, run_to_end)
                if self._abandoned:
                    return
                self._results.append(result)
                if stop_early and any(isinstance(o, Failure) for o in result.outcomes):
                    break
            self.finished.set()

        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(work,), daemon=True).start()

    def wait(self, timeout: float | None) -> list[Result]:
        """The results there are when the thread has ended or one call has overrun."""
        while not self.finished.is_set():
            left = None if timeout is None else self._started + timeout - time.monotonic()
            if left is not None and left <= 0:
                self._abandoned = True
                break
            self.finished.wait(left)
        return list(self._results)


class LoopRunner:
    """Makes calls of an async reward side by side, in an event loop that it keeps.

    The loop is the reward's own: one that blocks instead of awaiting holds up no other. It is kept
    from call to call, so that clients and connections bound to it stay usable.
    """

    def __init__(self, function: Callable[..., Any], timeout: float | None) -> None:
        self._function = function
        self._timeout = timeout
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, calls: Sequence[Call], stop_early: bool = False) -> list[Result]:
        """Make the calls at once; blocks until all have ended or overrun.

        Args:
            calls: What to call the reward with.
            stop_early: Accepted for symmetry; calls made together end together.
        """
        results = [_overran(call, self._timeout) for call in calls]

        async def score(place: int) -> None:
            # Kept at once: should another sample block the loop, this one has its score.
            results[place] = await perform_async(self._function, calls[place])

        async def one(place: int) -> None:
            with contextlib.suppress(TimeoutError):  # the result is that failure already
                await asyncio.wait_for(score(place), self._timeout)

        async def all_of_them() -> None:
            await asyncio.gather(*map(one, range(len(calls))))

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=_run_loop, args=(self._loop,), daemon=True).start()
        future = asyncio.run_coroutine_threadsafe(all_of_them(), self._loop)
        try:
            future.result(None if self._timeout is None else self._timeout + GRACE)
        except concurrent.futures.TimeoutError:
            # The loop is blocked: its thread is lost, and so is what it had not finished.
            self.close()
        return list(results)

    def close(self) -> None:
        """Have the loop's thread end, as soon as what runs in it lets go."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(_wind_down(), self._loop)
            self._loop = None


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


async def _wind_down() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    asyncio.get_running_loop().stop()
