"""What every process that we start to run a stranger's code has in common: how it ends."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

PATIENCE = 5.0  # seconds

# In the environment of every worker: its own name behind those of the workers it runs in, so that
# what it started is found again when it has crashed and its children have lost their parent.
MARK = "TRL_DEEPSEEK_REWARD_WORKER"

_count = itertools.count()


def new_mark() -> str:
    """A mark for a process that is about to be started."""
    return f"{os.environ.get(MARK, '')}/{os.getpid()}-{next(_count)}"


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
        for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)

    for each in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(each, lambda *_: None)  # unlike SIG_IGN, not inherited by an exec
    os.register_at_fork(after_in_child=default)


def descendants(process: int) -> list[psutil.Process]:
    """Children, their children and so on, those in other sessions too; none where it has ended."""
    import psutil

    with contextlib.suppress(psutil.Error):
        return psutil.Process(process).children(recursive=True)
    return []


def end(process: subprocess.Popen[bytes], mark: str | None = None) -> None:
    """Kill a process that leads a session, and all that it started; wait until it has ended.

    Args:
        process: Started with ``start_new_session=True``; it may have ended already.
        mark: What its environment has under ``MARK``; by that are found those that left its
            session and lost their parent.
    """
    strays = descendants(process.pid)
    # Its group is gone already where all of it has ended.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    _kill(strays)
    process.wait()
    give_up = time.monotonic() + PATIENCE  # on what the kernel cannot end now
    while mark and (strays := _marked(mark)) and time.monotonic() < give_up:
        _kill(strays)


def _kill(processes: list[psutil.Process]) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _marked(mark: str) -> list[psutil.Process]:
    import psutil

    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended, or is another user's
            if f"{process.environ().get(MARK, '')}/".startswith(f"{mark}/"):
                found.append(process)
    return found
