"""The process of one stage of a recipe."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Mapping
from typing import IO, Any

from trl_deepseek import secrets, stopping
from trl_deepseek.workers.supervised import end, end_with_parent


def wait_for(
    command: list[str],
    options: Mapping[str, Any],
    errors: IO[str] | None = None,
    limit: float | None = None,
) -> tuple[int, str]:
    """Run a process that shares stderr; its exit code and stdout. It never outlives this one.

    It is in a session of its own, so that of what the terminal or a batch system sends it gets each
    signal once, from here.

    Args:
        command: Its words.
        options: Of the stage, whose secrets it is handed in its environment.
        errors: A file for its stderr, in the place of this process's.
        limit: Seconds after which it is killed with all that it started; None for none.

    Raises:
        subprocess.TimeoutExpired: It took longer than ``limit``.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        start_new_session=True,
        # As -P, for a launcher's processes too: what lies in the working directory is not to run.
        env=os.environ | {"PYTHONSAFEPATH": "1"} | secrets.handed_on(options),
        preexec_fn=functools.partial(end_with_parent, os.getpid(), by=signal.SIGTERM),
    )

    def send(number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    try:
        with stopping.passing_on(send):
            output, _ = process.communicate(timeout=limit)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        end(process)
        raise
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def ended_by(code: int) -> signal.Signals | None:
    """The signal that a process's exit code speaks of."""
    number = code - 128 if code > 128 else -code
    return signal.Signals(number) if number in stopping.SIGNALS else None
