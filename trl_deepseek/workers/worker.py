"""A worker process: gets functions, then calls to make, and answers each call as it ends.

Started by ``trl_deepseek.workers.process`` as a fresh interpreter that forks once: the first
process stays to see that all the second starts ends with it. Both end when their parent does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from trl_deepseek.errors import describe
from trl_deepseek.workers.calls import Call, Failure, Result, perform
from trl_deepseek.workers.remembering import Remember, answer
from trl_deepseek.workers.shipping import Shipment, unpack
from trl_deepseek.workers.supervised import (
    END_KEPT,
    end_with_parent,
    keep,
    leave_signals_to_parent,
)


@dataclass(frozen=True)
class Define:
    """Ask a worker to load the function that it will know as ``key``.

    With ``make`` what is shipped makes that function when it is called.
    """

    key: str
    shipment: Shipment
    make: bool = False


@dataclass(frozen=True)
class Score:
    """Ask a worker to make these calls of ``key``, one after another."""

    key: str
    calls: Sequence[Call]


@dataclass(frozen=True)
class Ask:
    """Ask a worker for ``key(item)`` of each item, whatever that is.

    An item that is not done within ``seconds`` ends the worker, even in one endless operation in C.
    """

    key: str
    items: Sequence[Any]
    seconds: float


def main(channel: int, parent: int, memory: int) -> None:
    """Serve the parent until it closes its end.

    Args:
        channel: File descriptor of the connection to the parent.
        parent: The parent's process id; 0 where the thread of the parent that started this process
            ends before it, which Linux would take for the parent's end.
        memory: Bytes of private memory that this process may have.
    """
    os.set_inheritable(channel, False)
    if parent:
        end_with_parent(parent, by=END_KEPT)
    with contextlib.suppress(ValueError, OSError):  # other systems than Linux do not have it
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    keep()
    leave_signals_to_parent()
    me = os.getpid()
    connection = Connection(channel)
    functions: dict[str, Callable[..., Any]] = {}
    # The parent may hang up at any time.
    with contextlib.suppress(EOFError, ConnectionError), asyncio.Runner() as runner:

        def wait(awaitable: Any) -> Any:
            async def result() -> Any:
                return await awaitable

            return runner.run(result())

        while True:
            request = connection.recv()
            if isinstance(request, Define):
                connection.send(_define(request, functions))
            elif isinstance(request, Remember):
                connection.send(answer(request, functions[request.key]))
            elif isinstance(request, Ask):
                _answer(connection, request, functions[request.key])
            else:
                connection.send(None)  # what it was sent is read: now time counts
                for call in request.calls:
                    result = perform(functions[request.key], call, wait)
                    if os.getpid() != me:  # a reward that forks comes back here twice
                        os._exit(0)
                    _send(connection, result, call)


def _define(request: Define, functions: dict[str, Callable[..., Any]]) -> str | None:
    """Load a function; what went wrong, or None."""
    try:
        function = unpack(request.shipment)
        functions[request.key] = function() if request.make else function
    except BaseException as error:  # importing a user's module may raise anything
        return describe(error)
    return None


def _answer(connection: Connection, request: Ask, function: Callable[..., Any]) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process
    for item in request.items:
        signal.setitimer(signal.ITIMER_REAL, request.seconds)
        try:
            answered = ("", function(item))
        except Exception:
            answered = (traceback.format_exc(), None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        connection.send(answered)


def _send(connection: Connection, answer: Result, call: Call) -> None:
    try:
        connection.send(answer)
    except ConnectionError:
        raise
    except Exception as error:  # what was logged does not pickle
        connection.send(call.failed(Failure("error", f"log_extra: {describe(error)}")))
