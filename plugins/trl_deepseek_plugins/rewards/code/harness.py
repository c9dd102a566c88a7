"""Runs inside the sandbox: one child process per test, what it said goes back as a JSON line.

It reads a job from standard input. A program's output goes to a pipe that this process reads; the
line for it is ``[index, output]``, or ``[index, null]`` where the program failed. For an assertion
the line holds the job's token if all of it ran, so that leaving early is not passing.

Only the standard library, and nothing of trl_deepseek, is there to import.
"""

import contextlib
import json
import os
import select
import signal
import sys
import threading
import time
from typing import Any


def child(code: str, test: dict[str, str], token: str, reading: int, writing: int) -> None:
    """Become the program or the module under test; does not return."""
    devnull = os.open(os.devnull, os.O_RDWR)
    os.dup2(reading, 0)
    os.dup2(writing if "input" in test else devnull, 1)
    os.dup2(devnull, 2)
    result = os.dup(writing) if "assert" in test else devnull
    os.closerange(3, result)
    os.closerange(result + 1, 256)
    status = 1
    try:
        compiled = compile(code, "program.py", "exec")
        main = type(sys)("__main__" if "input" in test else "program")
        sys.modules[main.__name__] = main
        try:
            exec(compiled, main.__dict__)
        except SystemExit as end:
            if "assert" in test or end.code not in (None, 0):
                raise
        if "assert" in test:
            exec(compile(test["assert"], "test.py", "exec"), main.__dict__)
            os.write(result, token.encode())
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()  # as Python does before it ends
        for stream in (sys.stdout, sys.__stdout__):
            if stream is not None:
                stream.flush()
        status = 0
    finally:
        os._exit(status)  # with the exception, if any: nobody reads a traceback


def listen(pid: int, pipe: int, keep: int, deadline: float) -> str | None:
    """What the child says until it ends, or None where it fails or runs out of time."""
    said = bytearray()
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([pipe], [], [], left)[0]:
            break
        chunk = os.read(pipe, 1 << 16)
        if not chunk:
            break
        if len(said) <= 4 * keep:  # bytes per character; the rest is read and dropped
            said += chunk
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            text = said.decode(errors="replace")
            return text[:keep] if status == 0 else None
        time.sleep(0.001)
    return None


def end(pid: int) -> None:
    """Kill the child's process group and reap the child, if that has not happened."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def main() -> None:
    """Run each test of the job in turn."""
    job: dict[str, Any] = json.load(sys.stdin)
    for index, (test, keep) in enumerate(zip(job["tests"], job["keep"], strict=True)):
        with open("input.txt", "w") as file:
            file.write(test.get("input", ""))
        reading = os.open("input.txt", os.O_RDONLY)
        pipe, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setsid()
            child(job["code"], test, job["token"], reading, writing)
        os.close(writing)
        os.close(reading)
        said = listen(pid, pipe, keep, time.monotonic() + job["seconds"])
        end(pid)
        os.close(pipe)
        print(json.dumps([index, said]), flush=True)


if __name__ == "__main__":
    main()
