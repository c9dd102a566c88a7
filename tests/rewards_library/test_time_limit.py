"""Items are called in a helper process; whatever becomes of it, the others get their result."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from trl_deepseek.workers import time_limit
from trl_deepseek.workers.time_limit import Unfinished, call_each


def doing() -> Callable[[str], Any]:
    """What a word says, done in the helper."""

    def do(word: str) -> Any:
        what, _, number = word.partition(" ")
        if what == "hang":
            return 9**9**9  # one endless operation in C, which no Python signal handler ends
        if what == "sleep":
            time.sleep(60)
        if what == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "leave":
            os._exit(3)
        if what == "raise":
            raise KeyError("from the helper")
        if what == "hoard":
            try:
                return len(bytearray(64 << 30))
            except MemoryError:
                return "refused"
        if what == "pid":
            return os.getpid()
        return math.sqrt(float(number))

    return do


def failing() -> Callable[[str], Any]:
    raise ImportError("no such library")


def helpers() -> set[int]:
    return {
        process.pid
        for process in psutil.Process().children(recursive=True)
        if time_limit.__name__ in " ".join(process.cmdline())
    }


def test_what_hangs_or_crashes_costs_itself_and_nothing_else() -> None:
    words = ["root 4", "hang", "root 9", "segfault", "leave", "sleep", "root 16", "hoard"]
    found = call_each(doing, words, seconds=0.5)
    assert found == [
        2.0,
        Unfinished("not done within 0.5 s"),
        3.0,
        Unfinished("its process ended with SIGSEGV"),
        Unfinished("its process ended with exit code 3"),
        Unfinished("not done within 0.5 s"),
        4.0,
        "refused",
    ]


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGABRT])
def test_an_idle_helper_that_was_ended_is_replaced(by: signal.Signals) -> None:
    (first,) = call_each(doing, ["pid"], 60.0)
    os.kill(first, by)
    psutil.wait_procs([psutil.Process(first)] if psutil.pid_exists(first) else [], timeout=60)
    (second,) = call_each(doing, ["pid"], 60.0)
    assert second != first


def test_a_helper_is_used_again_and_ends_with_its_crash() -> None:
    (first,) = call_each(doing, ["pid"], 5.0)
    assert call_each(doing, ["pid", "pid"], 5.0) == [first, first]
    assert first in helpers()
    call_each(doing, ["leave"], 5.0)
    assert first not in helpers()


def test_an_exception_comes_back_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'from the helper'"):
        call_each(doing, ["raise"], 5.0)
    assert call_each(doing, ["root 4"], 5.0) == [2.0]


def test_a_factory_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match=r"helper process for failing failed:(.|\n)*no such lib"):
        call_each(failing, ["x"], 5.0)


def test_threads_do_not_share_a_helper() -> None:
    results: dict[int, list[Any]] = {}

    def work(number: int) -> None:
        results[number] = call_each(doing, [f"root {number}"] * 50, 5.0)

    threads = [threading.Thread(target=work, args=(n,)) for n in (4, 9, 16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {4: [2.0] * 50, 9: [3.0] * 50, 16: [4.0] * 50}


def test_a_forked_child_has_helpers_of_its_own() -> None:
    (ours,) = call_each(doing, ["pid"], 5.0)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        (theirs,) = call_each(doing, ["pid"], 5.0)
        os.write(writing, str(theirs).encode())
        time_limit._close_all()
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        theirs = int(pipe.read())
    os.waitpid(child, 0)
    assert theirs != ours
    assert call_each(doing, ["pid"], 5.0) == [ours]


def test_no_items_start_no_helper() -> None:
    before = helpers()
    assert call_each(doing, [], 5.0) == []
    assert helpers() == before
