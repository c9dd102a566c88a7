"""Which process of a run says what: the first speaks for all, another only of what is its own."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from datetime import timedelta

from trl_deepseek.jobs.peers import store_of_the_run

# Seconds in which the first process meets the same error, or the launcher ends this one since the
# first has failed.
PATIENCE = 10.0
KEY = "trl_deepseek/error"


def speaks() -> bool:
    """Whether this process prints what a run of several has to say once."""
    return os.environ.get("RANK", "0") == "0"


def message_of_this_rank(message: str) -> str | None:
    """What this process has to say of an error; None where the first process has said it.

    Args:
        message: The error.
    """
    rank, store = os.environ.get("RANK", "0"), store_of_the_run()
    if rank == "0":
        if store is not None:
            store.set(KEY, message)
        return message
    if store is None:
        time.sleep(PATIENCE)  # the launcher's SIGTERM ends it
        return f"rank {rank}: {message}"
    try:
        store.wait([KEY], timedelta(seconds=PATIENCE))
        said = store.get(KEY).decode()
    except Exception as error:
        if "timeout" not in str(error).lower():
            return None  # the first process, which keeps the store, has ended before this one
        said = ""
    return None if said == message else f"rank {rank}: {message}"


def said_by_the_first(say: Callable[[], None]) -> None:
    """Have the first process call ``say``; the others wait, since a launcher ends all with one."""
    store = store_of_the_run()
    if speaks():
        say()
        if store is not None:
            store.set(KEY, "")
    elif store is not None:
        with contextlib.suppress(Exception):  # the first one took too long, or has ended
            store.wait([KEY], timedelta(seconds=PATIENCE))
