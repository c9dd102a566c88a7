"""Runs inside the sandbox: a job of tests comes on standard input, a JSON line per test goes out.

Three kinds of process: this one, which holds the job; the *nursery*, forked before the job is read,
which knows the code under test alone and forks a fresh process for every run of it; and one that
runs a test's text and speaks to the program over a socket. So the memory of the program never
held a test. There is no ``/proc``, and the kernel refuses to let one process read another.

A line is ``[index, result]``: the SHA-256 of a program's output, line ends aside, and the output
itself where it is short; a list of the
value that a function returned; true where a test's text ran through. Null where it failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
import types
from typing import Any

from trl_deepseek_plugins.rewards.code.inside import program, wire

SHORT = 1 << 16  # characters of an output that is given back whole: decimals are compared outside
AFTER_KILL = 5.0  # seconds for the nursery to see that a program is dead


def main() -> None:
    """Run each test of the job in turn."""
    nursery, theirs = socket.socketpair()
    if os.fork() == 0:
        nursery.close()
        _raise_programs(theirs)
    theirs.close()
    job: dict[str, Any] = json.load(sys.stdin)
    wire.send(nursery, [job["before"], job["code"]])
    with contextlib.suppress(EOFError, OSError):  # a program has ended the nursery: no more runs
        if not wire.receive(nursery):
            return
        for index, test in enumerate(job["tests"]):
            run = _run_program if test["kind"] == "program" else _run_test
            result = run(nursery, test, time.monotonic() + job["seconds"])
            print(json.dumps([index, result]), flush=True)


def _raise_programs(control: socket.socket) -> None:
    """The nursery: fork a program for each request; does not return."""
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nowhere, number)
        _forget_harness()
        compiled = [_compile(part) for part in wire.receive(control)]
        parts = [part for part in compiled if part is not None]
        wire.send(control, len(parts) == len(compiled))
        while len(parts) == len(compiled):
            message, descriptors, _, _ = socket.recv_fds(control, 1, 2)
            if not message:
                break
            pid = _fork()
            if pid == 0:
                os.setsid()
                control.close()
                if message == b"P":
                    program.run(parts, *descriptors)
                program.serve(parts, *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            wire.send(control, pid)
            wire.send(control, os.waitpid(pid, 0)[1])
    finally:
        os._exit(0)


def _compile(code: str) -> types.CodeType | None:
    try:
        return compile(code, "program.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


class _Program:
    """A run of the program, from the nursery; ended when the block ends."""

    def __init__(self, nursery: socket.socket, mode: bytes, descriptors: list[int]) -> None:
        self.nursery = nursery
        self.status: int | None = None
        socket.send_fds(nursery, [mode], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        nursery.settimeout(AFTER_KILL)
        self.pid = wire.receive(nursery)

    def wait(self, deadline: float) -> int | None:
        """How it ended; None where it has not by then."""
        left = deadline - time.monotonic()
        if self.status is None and select.select([self.nursery], [], [], max(left, 0.0))[0]:
            self.status = wire.receive(self.nursery)
        return self.status

    def __enter__(self) -> _Program:
        return self

    def __exit__(self, *_: object) -> None:
        _kill_group(self.pid)
        if self.status is None:
            self.status = wire.receive(self.nursery)


def _run_program(nursery: socket.socket, test: dict[str, Any], deadline: float) -> Any:
    """What the program wrote, or None where it failed or took too long."""
    with open("input.txt", "w", newline="", errors="surrogatepass") as file:
        file.write(test["input"])
    reading = os.open("input.txt", os.O_RDONLY)
    os.unlink("input.txt")
    pipe, writing = os.pipe()
    try:
        with _Program(nursery, b"P", [reading, writing]) as running:
            said = _read(pipe, deadline)
            if said is None or running.wait(deadline) != 0:
                return None
            text = wire.plain(said)
            return [wire.digest(text), text if len(text) <= SHORT else None]
    finally:
        os.close(pipe)


def _run_test(nursery: socket.socket, test: dict[str, Any], deadline: float) -> Any:
    """What a test's process found: a value or true; None where it failed or took too long."""
    mine, theirs = socket.socketpair()
    pipe, writing = os.pipe()
    with _Program(nursery, b"C", [theirs.detach()]):
        pid = _fork()
        if pid == 0:
            os.setsid()
            nursery.close()
            _test(mine, test, writing)
        mine.close()
        os.close(writing)
        try:
            said = _read(pipe, deadline)
            return json.loads(said) if said else None
        finally:
            os.close(pipe)
            _kill_group(pid)
            os.waitpid(pid, 0)


def _test(connection: socket.socket, test: dict[str, Any], result: int) -> None:
    """The process of one test; does not return."""
    from trl_deepseek_plugins.rewards.code.inside import tester  # only this process needs it

    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nowhere, number)
        run = tester.call if test["kind"] == "call" else tester.run_text
        said = json.dumps(run(connection, test)).encode()
        while said:
            said = said[os.write(result, said) :]
    finally:
        os._exit(1)  # what has been written counts


def _read(pipe: int, deadline: float) -> bytes | None:
    """All of a pipe; None where it is longer, or still open at the deadline."""
    said = bytearray()
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([pipe], [], [], left)[0]:
            break
        chunk = os.read(pipe, 1 << 16)
        if not chunk:
            return bytes(said) if len(said) <= wire.OUTPUT else None
        if len(said) <= wire.OUTPUT:
            said += chunk
    return None


def _fork() -> int:
    """Fork, perhaps once the processes that a program has left behind are gone."""
    deadline = time.monotonic() + AFTER_KILL
    while True:
        try:
            return os.fork()
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _forget_harness() -> None:
    """Make what runs here something that a program cannot import."""
    package = __name__.partition(".")[0]
    sys.meta_path[:] = [finder for finder in sys.meta_path if not hasattr(finder, "sources")]
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]
    vars(sys.modules["__main__"]).clear()


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
