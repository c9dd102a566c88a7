"""A worker process: gets functions, then calls to make, and answers each call as it ends.

Started by ``trl_deepseek.workers.pool`` as a fresh interpreter in a session of its own, so that it
and all it starts can be killed together. It ends when its parent does.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from trl_deepseek.workers.calls import Call, Failure, Result, describe, perform
from trl_deepseek.workers.shipping import Shipment, unpack

MARK = "TRL_DEEPSEEK_REWARD_WORKER"  # set in the environment of every worker
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Define:
    """Ask a worker to load the function that it will know as ``key``."""

    key: str
    shipment: Shipment


@dataclass(frozen=True)
class Score:
    """Ask a worker to make these calls of ``key``, one after another."""

    key: str
    calls: Sequence[Call]


def main(channel: int, parent: int, memory: int) -> None:
    """Serve the parent until it closes its end.

    Args:
        channel: File descriptor of the connection to the parent.
        parent: The parent's process id.
        memory: Bytes of private memory that this process may have.
    """
    os.set_inheritable(channel, False)
    _end_with(parent)
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    me = os.getpid()
    connection = Connection(channel)
    functions: dict[str, Callable[..., Any]] = {}
    with asyncio.Runner() as runner:

        def wait(awaitable: Any) -> Any:
            async def result() -> Any:
                return await awaitable

            return runner.run(result())

        while True:
            try:
                request = connection.recv()
            except (EOFError, ConnectionError):
                return
            if isinstance(request, Define):
                connection.send(_define(request, functions))
            else:
                for call in request.calls:
                    answer = perform(functions[request.key], call, wait)
                    if os.getpid() != me:  # a reward that forks comes back here twice
                        os._exit(0)
                    _send(connection, answer, call)


def _define(request: Define, functions: dict[str, Callable[..., Any]]) -> str | None:
    """Load a function; what went wrong, or None."""
    try:
        functions[request.key] = unpack(request.shipment)
    except (Exception, SystemExit) as error:  # importing a user's module may raise anything
        return describe(error)
    return None


def _send(connection: Connection, answer: Result, call: Call) -> None:
    try:
        connection.send(answer)
    except (TypeError, AttributeError, ValueError) as error:  # what was logged does not pickle
        connection.send(call.failed(Failure("error", f"log_extra: {describe(error)}")))


def _end_with(parent: int) -> None:
    """Die when the parent does, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(0)
