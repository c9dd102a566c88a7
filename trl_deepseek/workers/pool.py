"""A fixed number of worker processes that make calls of rewards, and survive what rewards do.

A call that hangs, crashes its process, outgrows the memory limit or forks without end costs its own
samples and the time to start a process; every other call of the batch is still made.

    pool = Pool(workers=2, memory=4 << 30)
    pool.add("short", ship(short, "short"))
    results = pool.run("short", calls, timeout=10.0)
    pool.close()
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import pickle
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from trl_deepseek.errors import ConfigError, RewardError, describe
from trl_deepseek.workers.calls import Call, Failure, Result
from trl_deepseek.workers.inprocess import GIVE_UP, NOT_TRIED
from trl_deepseek.workers.process import START, Died, Unsendable, WorkerProcess
from trl_deepseek.workers.remembering import Remember
from trl_deepseek.workers.shipping import Shipment
from trl_deepseek.workers.supervised import MARK

logger = logging.getLogger(__name__)

# Seconds of calls that one message to a worker should hold: messages then cost next to nothing,
# and the workers still end a batch together.
CHUNK = 0.05
LONGEST_CHUNK = 64


@dataclass
class _Job:
    """One batch of calls of one reward, while it is being worked off."""

    key: str
    calls: Sequence[Call]
    timeout: float | None
    stop_early: bool
    results: list[Result | None]
    waiting: deque[int]
    open: int
    done: threading.Event = field(default_factory=threading.Event)
    seconds: float = 0.0  # spent on calls that ended
    ended: int = 0
    failed_in_a_row: int = 0
    one_by_one: bool = False  # once a call could not be sent, to tell which

    def take(self) -> list[int]:
        """Places of the next calls for one worker."""
        mean = self.seconds / self.ended if self.ended else CHUNK
        size = 1 if self.one_by_one else min(LONGEST_CHUNK, max(1, int(CHUNK / max(mean, 1e-6))))
        return [self.waiting.popleft() for _ in range(min(size, len(self.waiting)))]

    def finish(self, place: int, result: Result, seconds: float, died: bool) -> None:
        """Note one result; ``died`` where it cost the worker."""
        self.results[place] = result
        self.open -= 1
        self.seconds += seconds
        self.ended += 1
        self.failed_in_a_row = self.failed_in_a_row + 1 if died else 0
        failed = any(isinstance(outcome, Failure) for outcome in result.outcomes)
        if (self.stop_early and failed) or self.failed_in_a_row == GIVE_UP:
            self.drop_waiting()
        if self.open == 0:
            self.done.set()

    def drop_waiting(self) -> None:
        """Give up the calls that no worker has yet."""
        self.open -= len(self.waiting)
        self.waiting.clear()
        if self.open == 0:
            self.done.set()


class Pool:
    """Worker processes and, for each, the thread that feeds and watches it.

    Args:
        workers: Processes.
        memory: Bytes of private memory that each may have.

    Raises:
        RewardError: This process is a worker itself.
    """

    def __init__(self, workers: int, memory: int) -> None:
        if os.environ.get(MARK):
            raise RewardError(
                "a worker process of a reward would start the training again: the script that "
                "trains is not protected\n"
                "  put what runs into `if __name__ == '__main__':`, or the reward into another file"
            )
        if sys.platform != "linux":
            logger.warning("the memory of reward workers is not limited here: only Linux does it")
        self._memory = memory
        self._shipments: dict[str, Shipment] = {}
        self._jobs: deque[_Job] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._processes: dict[int, WorkerProcess] = {}
        self._threads = [
            threading.Thread(target=self._serve, args=(slot,), daemon=True)
            for slot in range(workers)
        ]
        self._owner = os.getpid()
        for thread in self._threads:
            thread.start()
        _LIVING.add(self)

    def add(self, key: str, shipment: Shipment) -> None:
        """Make a reward known as ``key``; see that it loads with :meth:`check`."""
        with self._change:
            self._shipments[key] = shipment

    def check(self, key: str) -> None:
        """Load a reward in a worker.

        Raises:
            ConfigError: It does not load there.
        """
        (result,) = self._work(_Job(key, [_LOAD], None, False, [None], deque([0]), 1))
        if isinstance(result.outcomes[0], Failure):
            raise ConfigError(f"reward {key!r} {result.outcomes[0].message}")

    def run(
        self, key: str, calls: Sequence[Call], timeout: float | None, stop_early: bool = False
    ) -> list[Result]:
        """Make calls of a reward; blocks until each has ended or failed.

        Args:
            key: Which reward.
            calls: What to call it with.
            timeout: Seconds that each may take.
            stop_early: Whether to begin no further call after one that failed.
        """
        places = range(len(calls))
        empty: list[Result | None] = [None] * len(calls)
        return self._work(_Job(key, calls, timeout, stop_early, empty, deque(places), len(calls)))

    def state(self, key: str) -> Any:
        """What a reward remembers, in a pool of one worker.

        Raises:
            RewardError: It does not say.
        """
        return pickle.loads(self._remember(key, Remember(key)))

    def set_state(self, key: str, state: Any) -> None:
        """Have a reward remember ``state``; as :meth:`state`."""
        self._remember(key, Remember(key, pickle.dumps(state)))

    def _remember(self, key: str, request: Remember) -> Any:
        call = Call({"request": request}, 0, (_REMEMBER,))
        (result,) = self._work(_Job(key, [call], None, False, [None], deque([0]), 1))
        (outcome,) = result.outcomes
        if isinstance(outcome, Failure):
            raise RewardError(f"reward {key!r}: {outcome.message}")
        return result.extras[0][1][0]

    def close(self) -> None:
        """Kill the workers and all they started."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        if os.getpid() != self._owner:  # a fork of the owner, such as a data loader's worker
            return
        for slot in list(self._processes):
            self._processes.pop(slot).kill()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=5)
        for process in self._processes.values():  # started while it was being closed
            process.kill()

    def _work(self, job: _Job) -> list[Result]:
        if job.open:
            with self._change:
                if self._closed:
                    raise RewardError(f"reward {job.key!r}: its worker processes have been closed")
                self._jobs.append(job)
                self._change.notify_all()
            job.done.wait()
        return [
            result or call.failed(NOT_TRIED)
            for call, result in zip(job.calls, job.results, strict=True)
        ]

    def _serve(self, slot: int) -> None:
        """One slot's thread: takes calls and has its process make them."""
        while True:
            with self._change:
                while not self._closed and not any(job.waiting for job in self._jobs):
                    self._change.wait()
                if self._closed:
                    self._abandon()
                    return
                self._jobs = deque(job for job in self._jobs if job.waiting)
                job = self._jobs[0]
                self._jobs.rotate(-1)  # two rewards of one step share the workers
                places = job.take()
            self._make_calls(slot, job, places)

    def _abandon(self) -> None:
        for job in self._jobs:
            job.drop_waiting()

    def _make_calls(self, slot: int, job: _Job, places: list[int]) -> None:
        pending = deque(places)
        started = time.monotonic()
        try:
            process = self._process(slot)
            process.define(job.key, self._shipments[job.key])
            if job.calls[0] is _LOAD:
                return self._finish(job, 0, Result([None]), 0.0)
            if job.calls[0].logs == (_REMEMBER,):
                state = process.remember(job.calls[0].arguments["request"], START)
                kept = Result([None], extras=[(_REMEMBER, [state])])
                return self._finish(job, 0, kept, 0.0)
            process.begin(job.key, [job.calls[place] for place in places])
            while pending:
                if len(pending) == 1:
                    pending += self._begin_early(process, job)
                started = time.monotonic()
                result = process.result(job.timeout)
                self._finish(job, pending.popleft(), result, time.monotonic() - started)
        except Unsendable as error:
            if len(places) == 1:
                return self._finish(job, places[0], job.calls[places[0]].failed(error.failure), 0.0)
            with self._change:
                job.one_by_one = True
                self._give_back(job, places)
        except Died as death:
            self._lose(slot, job, pending, death.failure, time.monotonic() - started)
        except Exception as error:  # not foreseen: the job must end all the same
            failure = Failure("error", f"its worker process cannot be used: {describe(error)}")
            self._lose(slot, job, pending, failure, time.monotonic() - started)

    def _lose(
        self, slot: int, job: _Job, pending: deque[int], failure: Failure, seconds: float
    ) -> None:
        """The first pending call failed and cost the worker; others may make the rest."""
        lost = self._processes.pop(slot, None)
        if lost is not None:
            lost.kill()
        with contextlib.suppress(Died):  # told when it is needed
            if not self._closed:  # the next call should not wait for the interpreter
                self._start(slot)
        with self._change:
            place = pending.popleft()
            self._give_back(job, pending)
            job.finish(place, job.calls[place].failed(failure), seconds, died=True)

    def _begin_early(self, process: WorkerProcess, job: _Job) -> list[int]:
        """Send the next calls before the last one has ended; their places."""
        with self._change:
            # The last calls go to whoever is free first.
            places = job.take() if len(job.waiting) > len(self._threads) else []
        if not places:
            return []
        try:
            sent = process.begin_early(job.key, [job.calls[place] for place in places])
        except (Unsendable, Died):  # told when it is their turn, or by the result that is due
            sent = False
        if not sent:
            with self._change:
                self._give_back(job, places)
            return []
        return places

    def _give_back(self, job: _Job, places: Sequence[int]) -> None:
        """Let others make calls that were taken; the lock is held."""
        job.waiting.extendleft(reversed(places))
        if self._closed:
            job.drop_waiting()
        if job.waiting and job not in self._jobs:
            self._jobs.append(job)
        self._change.notify_all()

    def _process(self, slot: int) -> WorkerProcess:
        process = self._processes.get(slot)
        if process is not None and process.alive():
            return process
        if process is not None:
            process.kill()  # what it started may still live
        return self._start(slot)

    def _start(self, slot: int) -> WorkerProcess:
        try:
            self._processes[slot] = WorkerProcess(self._memory, __name__)
        except OSError as error:
            failure = Failure("error", f"no worker process can be started: {error.strerror}")
            raise Died(failure) from error
        return self._processes[slot]

    def _finish(self, job: _Job, place: int, result: Result, seconds: float) -> None:
        with self._change:
            job.finish(place, result, seconds, died=False)


_REMEMBER = "state"  # stands in a call's logs where no call is meant, but what is remembered
_LOAD = Call({}, 0)  # stands for loading a reward without calling it
_LIVING: weakref.WeakSet[Pool] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for pool in list(_LIVING):
        pool.close()
