"""What every process that we start to run a stranger's code has in common: how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

PATIENCE = 5.0  # seconds
TRIES = 1000  # to end what lives on, a millisecond and a look at all processes apart
LOOKS = 3  # in a row that find nothing, until nothing is there
END_KEPT = signal.SIGUSR1  # ends a process that keeps another, and both
# What batch systems and terminals send to every process of a job; the parent decides when to end.
OF_THE_JOB = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

# In the environment of every worker, and so of all that it starts.
MARK = "TRL_DEEPSEEK_REWARD_WORKER"


def end_with_parent(parent: int, by: int = signal.SIGKILL) -> None:
    """Have the kernel end this process when its parent does, however it does; on Linux alone.

    Args:
        parent: The parent's process id, which may have ended already.
        by: The signal that this process then gets.
    """
    import ctypes
    import os

    set_parent_death_signal = 1
    getattr(ctypes.CDLL(None), "prctl", lambda *_: 0)(set_parent_death_signal, int(by), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def leave_signals_to_parent() -> None:
    """Go on when a batch system tells every process of a job to end; the parent decides when.

    What this process starts is told as ever.
    """

    def default() -> None:
        for each in OF_THE_JOB:
            signal.signal(each, signal.SIG_DFL)

    for each in OF_THE_JOB:
        signal.signal(each, lambda *_: None)  # unlike SIG_IGN, not inherited by an exec
    os.register_at_fork(after_in_child=default)


def descendants(process: int) -> list[psutil.Process]:
    """Children, their children and so on, those in other sessions too; none where it has ended."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return psutil.Process(process).children(recursive=True)
    return []


def keep() -> None:
    """Go on in a child, which this process keeps: when it has ended, nothing it started lives on.

    What leaves its session and loses its parent becomes this process's own child, as Linux has it,
    and so is found whatever it does to its environment; elsewhere it may get away. Then this
    process ends as the child did: with its exit code, or by its signal. END_KEPT ends both.
    """
    import ctypes

    set_child_subreaper = 36
    getattr(ctypes.CDLL(None), "prctl", lambda *_: 0)(set_child_subreaper, 1, 0, 0, 0)
    keeper = os.getpid()
    child = os.fork()
    if child == 0:
        end_with_parent(keeper)
        os.setsid()  # what it does to its group does not meet the keeper
        return
    ended, status = 0, int(signal.SIGKILL)
    try:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        for each in OF_THE_JOB:
            signal.signal(each, lambda *_: None)
        signal.signal(END_KEPT, lambda *_: sys.exit())
        while ended != child:  # or an orphan, which nobody else would reap
            ended, status = os.waitpid(-1, 0)
    finally:
        signal.signal(END_KEPT, signal.SIG_IGN)
        with contextlib.suppress(ProcessLookupError):
            if ended != child:
                os.kill(child, signal.SIGKILL)
        _end_children()
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            with contextlib.suppress(OSError):  # SIGKILL and SIGSTOP are what they are
                signal.signal(-code, signal.SIG_DFL)
            os.kill(keeper, -code)
        os._exit(code)


def _end_children() -> None:
    """Kill and reap all that descends from this process, until there is nothing left."""
    with contextlib.suppress(ChildProcessError):  # there is none any more
        # Tries and no clock, which on a starved machine would run out before the first of them.
        for tried in range(TRIES):  # else the kernel cannot end it now
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                if tried > 10:  # it is no child that has been killed and is about to end
                    _kill(descendants(os.getpid()))
                time.sleep(0.001)


def end(process: subprocess.Popen[Any], *, kept: bool = False) -> None:
    """Kill a process that leads a session, and all that it started; wait until it has ended.

    Args:
        process: Started with ``start_new_session=True``; it may have ended already.
        kept: Whether it called :func:`keep`, so that it finds by itself what has got away.
    """
    if kept:
        process.send_signal(END_KEPT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
            return
        # While it lives what loses its parent becomes its child; a look misses what just does.
        empty = 0
        for _ in range(TRIES):
            strays = [each for each in descendants(process.pid) if _runs(each)]
            empty = 0 if strays else empty + 1
            if empty == LOOKS:
                break
            _kill(strays)
            time.sleep(0.001)
    strays = descendants(process.pid)
    # Its group is gone already where all of it has ended.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    _kill(strays)
    process.wait()


def _runs(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _kill(processes: list[psutil.Process]) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
