"""Run one command with limits on wall time, memory and output, and leave nothing behind.

The limits that the kernel keeps for one process (rlimits) are set by the command itself; these
are the ones that need a watcher: how long, how much memory for all of its processes together, and
how much it may say.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from trl_deepseek.workers.supervised import descendants, end

if TYPE_CHECKING:
    import psutil

TICK = 0.05  # seconds between two looks at the memory
CHUNK = 1 << 16
SOCKET = 212_992  # bytes that one socket may hold, the kernel's own default; see seccomp
OUTPUT = 1 << 20  # bytes of each stream that are kept unless a run asks for another number


@dataclass(frozen=True)
class Limits:
    """What one run may use.

    Attributes:
        wall_time: Seconds from start to end.
        cpu_time: Seconds of processor time for each process, rounded up.
        memory: Bytes of address space for each process; and for all together of what they hold:
            resident memory, files in the private folders, what waits in sockets.
        processes: Processes and threads at once.
        file_size: Bytes in one file, and in the private ``/tmp`` and ``/dev/shm`` each.
        output: Bytes of standard output and of standard error that are kept; one that says more
            is ended.
    """

    wall_time: float = 10.0
    cpu_time: float = 10.0
    memory: int = 1 << 30
    processes: int = 32
    file_size: int = 64 << 20
    output: int = OUTPUT


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        returncode: The exit code, or minus the signal that ended it.
        stdout: At most ``Limits.output`` bytes, decoded; what is not UTF-8 is replaced.
        stderr: As ``stdout``.
        stopped_by: ``wall_time``, ``memory`` or ``output`` where that limit ended it, else None.
        seconds: Wall time.
    """

    returncode: int
    stdout: str
    stderr: str
    stopped_by: str | None
    seconds: float


def supervise(
    command: Sequence[str],
    limits: Limits,
    stdin: bytes = b"",
    *,
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
    pass_fds: Sequence[int] = (),
    disks: Sequence[str] = (),
) -> Outcome:
    """Run ``command`` in a session of its own and end all of it when a limit is passed.

    Args:
        command: Program and arguments.
        limits: What it may use.
        stdin: What it reads.
        env: The whole environment; nothing is inherited.
        cwd: Where it starts.
        pass_fds: File descriptors it inherits beside the standard three.
        disks: Folders of its own of at most ``Limits.file_size`` that lie in memory.
    """
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(env or {}),
        cwd=cwd,
        pass_fds=pass_fds,
        start_new_session=True,
    )
    try:
        stopped_by, outputs = _converse(process, limits, stdin, start + limits.wall_time, disks)
    finally:
        _end(process)
    stdout, stderr = (bytes(output[: limits.output]).decode(errors="replace") for output in outputs)
    return Outcome(process.returncode, stdout, stderr, stopped_by, time.monotonic() - start)


def _converse(
    process: subprocess.Popen[bytes],
    limits: Limits,
    stdin: bytes,
    deadline: float,
    disks: Sequence[str],
) -> tuple[str | None, list[bytearray]]:
    """Feed and read until the process has ended and closed its output, or a limit is passed."""
    outputs = [bytearray(), bytearray()]
    with selectors.DefaultSelector() as selector:
        streams: list[IO[bytes]] = [_open(process.stdout), _open(process.stderr)]
        for stream, output in zip(streams, outputs, strict=True):
            selector.register(stream, selectors.EVENT_READ, output)
        source = _open(process.stdin)
        unread = memoryview(stdin)
        selector.register(source, selectors.EVENT_WRITE)
        next_look = time.monotonic() + TICK
        while selector.get_map():
            now = time.monotonic()
            if now >= deadline:
                return "wall_time", outputs
            if now >= next_look:
                if _too_much(process.pid, limits, disks):
                    return "memory", outputs
                next_look = time.monotonic() + TICK
            for key, _ in selector.select(min(TICK, deadline - now)):
                if key.fileobj is source:
                    unread = _feed(source, unread, selector)
                elif chunk := os.read(key.fd, CHUNK):
                    key.data.extend(chunk)
                    if len(key.data) > limits.output:
                        return "output", outputs
                else:
                    selector.unregister(key.fileobj)
            if process.poll() is not None:
                # A grandchild may hold the pipes open for ever: take what is there and go.
                _drain(streams, outputs, limits.output)
                return None, outputs
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
            return None, outputs
        return "wall_time", outputs


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("the process was started without this pipe")
    os.set_blocking(stream.fileno(), False)
    return stream


def _feed(source: IO[bytes], unread: memoryview, selector: selectors.BaseSelector) -> memoryview:
    """Write what fits; close the pipe at the end, or when nobody reads any more."""
    try:
        unread = unread[os.write(source.fileno(), unread[:CHUNK]) :] if unread else unread
    except BlockingIOError:
        return unread
    except BrokenPipeError:
        unread = unread[:0]
    if not unread:
        selector.unregister(source)
        source.close()
    return unread


def _drain(streams: list[IO[bytes]], outputs: list[bytearray], limit: int) -> None:
    for stream, output in zip(streams, outputs, strict=True):
        with contextlib.suppress(BlockingIOError):
            while len(output) <= limit and (chunk := os.read(stream.fileno(), CHUNK)):
                output.extend(chunk)


def _too_much(pid: int, limits: Limits, disks: Sequence[str]) -> bool:
    """Whether a process and all that descends from it hold more than they may.

    First by the cheap measure, which counts what they share once for each of them.
    """
    import psutil

    with contextlib.suppress(psutil.Error):
        family = [psutil.Process(pid), *descendants(pid)]
        written = _written(family, limits, disks)
        if written + sum(map(_at_most, family)) <= limits.memory:
            return False
        sockets: set[str] = set()
        held = sum(_share(process, sockets) for process in family)
        return written + held + len(sockets) * SOCKET > limits.memory
    return False


def _at_most(process: psutil.Process) -> int:
    import psutil

    with contextlib.suppress(psutil.Error):
        return process.memory_info().rss + process.num_fds() * SOCKET
    return 0


def _share(process: psutil.Process, sockets: set[str]) -> int:
    """A process's share of the resident memory; notes which sockets it has."""
    import psutil

    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed since
                if (name := os.readlink(descriptor)).startswith("socket:"):
                    sockets.add(name)
    with contextlib.suppress(psutil.Error):
        held = process.memory_full_info()
        return getattr(held, "pss", held.rss)  # only Linux divides what several share
    return 0


def _written(family: Sequence[psutil.Process], limits: Limits, disks: Sequence[str]) -> int:
    """Bytes in the folders; those of a process that has not entered the sandbox are not its own."""
    for process in reversed(family):
        try:
            found = [os.statvfs(f"/proc/{process.pid}/root{disk}") for disk in disks]
        except OSError:
            continue
        if all(disk.f_blocks * disk.f_frsize <= limits.file_size for disk in found):
            return sum((disk.f_blocks - disk.f_bfree) * disk.f_frsize for disk in found)
    return 0


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the session and reap its leader; in a PID namespace all of it ends with its first."""
    end(process)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
