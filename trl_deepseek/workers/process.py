"""One worker process as its parent sees it: start it, talk to it, watch it, kill it."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any

from trl_deepseek.errors import describe
from trl_deepseek.workers.calls import DETAIL, Call, Failure, Result
from trl_deepseek.workers.inprocess import timed_out
from trl_deepseek.workers.remembering import Remember
from trl_deepseek.workers.shipping import Shipment
from trl_deepseek.workers.supervised import MARK, PATIENCE, descendants, end
from trl_deepseek.workers.worker import Ask, Define, Score

# Seconds for the interpreter and the imports of a reward; its own timeout starts after them.
START = 120.0
# Seconds between two looks at whether a silent worker still lives.
LOOK = 0.05
# More processes than this are a fork bomb or a leak, and the worker has to go. They are counted,
# which takes some milliseconds, this often during a call that lasts, and else every COUNT_AGAIN.
MAX_CHILDREN = 64
COUNT = 0.25
COUNT_AGAIN = 5.0
# Bytes that the connection holds in any case while nobody reads.
EARLY = 32_000

# With -P, and with the working directory last where the path has it, no file that happens to lie
# there is imported in place of a module.
_BOOT = (
    "import json, os, sys; sys.path[:] = json.loads(os.environ.pop('TRL_DEEPSEEK_SYS_PATH'));"
    "from trl_deepseek.workers.worker import main; main(*map(int, sys.argv[2:]))"
)
# A worker is no rank of a distributed run: it must not try to join one.
_RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
_RANK_PREFIXES = ("MASTER_", "TORCHELASTIC_", "ACCELERATE_", "ROLE_", "FSDP_")


class Died(Exception):
    """The worker is gone, or has to go; ``failure`` says why."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Unsendable(Exception):
    """Arguments of a call cannot be pickled; ``failure`` says why. The worker is well."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        message = f"its arguments cannot be sent to a worker process: {describe(error)}"
        self.failure = Failure("error", message)


class WorkerProcess:
    """A running worker.

    Args:
        memory: Bytes of private memory that it may have.
        owner: The module it works for, for people who look at a list of processes.
        tied: Whether it ends at once with the thread that starts it, as Linux has it, and so with
            this process; else only when it next reads or writes.
    """

    def __init__(self, memory: int, owner: str, *, tied: bool = True) -> None:
        self.defined: set[str] = set()
        path = sorted(sys.path, key=lambda folder: folder == "")
        mine, theirs = Pipe()
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in _RANK_VARIABLES and not name.startswith(_RANK_PREFIXES)
        }
        environment |= {MARK: "1", "TRL_DEEPSEEK_SYS_PATH": json.dumps(path)}
        environment.setdefault("OMP_NUM_THREADS", "1")  # the processes are the parallelism
        with theirs:
            numbers = (theirs.fileno(), os.getpid() if tied else 0, memory)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, owner, *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=environment,
            )
        self._connection: Connection[Any, Any] = mine
        self._counted = time.monotonic()  # when its processes were
        self._due: collections.deque[int] = collections.deque()  # results of each request
        self._output: collections.deque[bytes] = collections.deque(maxlen=2)
        threading.Thread(target=self._drain, daemon=True).start()

    def alive(self) -> bool:
        """Whether it still runs; it may have been killed from outside while it had no work."""
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus the signal that ended it, or None while it runs."""
        return self._process.poll()

    def define(self, key: str, shipment: Shipment, *, make: bool = False) -> None:
        """Load a function in the worker, unless it has it; see :class:`Define`.

        Raises:
            Died: The worker ended, or the function does not load there.
        """
        if key in self.defined:
            return
        self._send(Define(key, shipment, make))
        problem = self._receive(START)
        if problem is not None:
            raise Died(Failure("error", f"does not load in a worker process: {problem}"))
        self.defined.add(key)

    def begin(self, key: str, calls: Sequence[Call]) -> None:
        """Send calls; their results are then due one by one, in this order.

        Raises:
            Died: The worker ended.
            Unsendable: A call cannot be pickled; none was sent.
        """
        self._send(Score(key, calls))
        self._due.append(len(calls))

    def begin_early(self, key: str, calls: Sequence[Call]) -> bool:
        """As :meth:`begin`, while results are still due, so that the worker need not wait.

        Returns:
            Whether they were sent. Large ones are not: a worker that hangs does not read, and the
            sender would hang with it.
        """
        message = _pickle(Score(key, calls))
        if len(message) > EARLY:
            return False
        self._send_bytes(message)
        self._due.append(len(calls))
        return True

    def remember(self, request: Remember, timeout: float) -> Any:
        """What a function there remembers; see :class:`Remember`. Raises as :meth:`define`."""
        self._send(request)
        problem, state = self._receive(timeout)
        if problem is not None:
            raise Died(Failure("error", f"its state cannot be kept: {problem}"))
        return state

    def ask(self, key: str, items: Sequence[Any], seconds: float) -> None:
        """Send items; the function's answers are then due one by one. Raises as :meth:`begin`."""
        self._send(Ask(key, items, seconds))

    def answer(self, timeout: float) -> tuple[str, Any]:
        """The next answer: a traceback or nothing, and the value. Raises as :meth:`result`."""
        answer: tuple[str, Any] = self._receive(timeout)
        return answer

    def result(self, timeout: float | None) -> Result:
        """The next result.

        Raises:
            Died: It did not come in time or never will; the worker has to be killed.
        """
        if self._due[0] >= 0:
            # Reading the arguments may import what they are made of, and is not the reward's time.
            self._receive(START)
            self._due[0] = -self._due[0]
        answer = self._receive(timeout)
        if not isinstance(answer, Result):
            raise Died(Failure("error", "its worker process answered nonsense"))
        self._due[0] += 1
        if not self._due[0]:
            self._due.popleft()
        return answer

    def kill(self) -> None:
        """Kill the worker and everything it started; wait until the worker has ended."""
        end(self._process, kept=True)
        self._connection.close()

    def forget(self) -> None:
        """In a forked child: let go of the parent's worker without ending it."""
        with contextlib.suppress(OSError):
            self._connection.close()
        self._process.returncode = 0  # not ours to wait for

    def _send(self, message: Any) -> None:
        self._send_bytes(_pickle(message))

    def _send_bytes(self, message: bytes) -> None:
        try:
            self._connection.send_bytes(message)
        except OSError as error:
            raise Died(self._end()) from error

    def _receive(self, timeout: float | None) -> Any:
        deadline = None if timeout is None else time.monotonic() + timeout
        count = min(time.monotonic() + COUNT, self._counted + COUNT_AGAIN)
        while True:
            if time.monotonic() >= count:
                self._counted = time.monotonic()
                count = self._counted + COUNT
                if len(descendants(self._process.pid)) > MAX_CHILDREN + 1:  # it is one itself
                    message = f"started more than {MAX_CHILDREN} processes"
                    raise Died(Failure("error", message, self._tail()))
            left = LOOK if deadline is None else min(LOOK, deadline - time.monotonic())
            try:
                if self._connection.poll(max(0.0, left)):
                    return self._connection.recv()
            except (EOFError, OSError) as error:
                raise Died(self._end()) from error
            except Exception as error:  # whatever an object's own methods raise
                message = f"what it sent cannot be read here: {describe(error)}"
                raise Died(Failure("error", message)) from error
            if self._process.poll() is not None and not self._connection.poll(0):
                raise Died(self._end())
            if deadline is not None and time.monotonic() >= deadline:
                raise Died(Failure("timeout", timed_out(timeout or 0).message, self._tail()))

    def _end(self) -> Failure:
        """How the worker ended, in words."""
        try:
            code = self._process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return Failure("error", "its worker process closed the connection", self._tail())
        if code < 0:
            try:
                how = f"was killed by {signal.Signals(-code).name}"
            except ValueError:
                how = f"was killed by signal {-code}"
        else:
            how = f"ended with exit code {code}"
        return Failure("error", f"its worker process {how}", self._tail())

    def _drain(self) -> None:
        # Reading keeps a chatty reward from blocking; only the end of what it says is kept.
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while block := os.read(output.fileno(), DETAIL):
                self._output.append(block)

    def _tail(self) -> str:
        text = b"".join(self._output)[-DETAIL:].decode(errors="replace")
        return f"its last output: {text}" if text else ""


def _pickle(message: Any) -> bytes:
    try:
        return pickle.dumps(message)
    except Exception as error:  # whatever an object's own methods raise
        raise Unsendable(error) from error
