"""Which process of a run ended it, where the others see no more than that it is gone.

torchrun and ``accelerate launch`` end all processes soon after one of them has ended, and say which
it was. One that hangs they do not see: the others wait for it for ``ddp_timeout`` seconds, and then
know neither which it is nor that they alone are well. Through the store by which the processes met,
each says that it is there.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from trl_deepseek.errors import RunError, describe

# Seconds in which another process meets the same error.
PATIENCE = 5.0
KEY = "trl_deepseek/ended/{}"
GONE = ("connection closed by peer", "connection reset by peer", "broken pipe", "remote process")
LATE = ("timed out", "timeout")


@contextlib.contextmanager
def named(timeout: float) -> Iterator[None]:
    """Where another process is behind an error, raise one that names it; see :func:`explained`."""
    try:
        yield
    except Exception as error:
        found = explained(error, timeout)
        if found is error:
            raise
        raise found from error


def explained(error: Exception, timeout: float) -> Exception:
    """The error of a step; where another process is behind it, one that names that.

    Args:
        error: What this process has met.
        timeout: Seconds that a process waits for the others, ``ddp_timeout``.
    """
    store, own = store_of_the_run(), os.environ.get("RANK", "0")
    if store is None:
        return error
    text = str(error).lower()
    gone, late = (any(each in text for each in words) for words in (GONE, LATE))
    waited = isinstance(error, RuntimeError) and not isinstance(error, RunError) and (gone or late)
    store.set(KEY.format(own), "" if waited else describe(error))
    if not waited:
        return error
    for rank in map(str, range(int(os.environ.get("WORLD_SIZE", "1")))):
        said = "" if rank == own else _last_words(store, rank)
        if said:
            return RunError(f"rank {rank} failed: {said}")
        if said is None and gone:
            return RunError(
                f"rank {rank} has ended without a word, as a process does that is killed (the "
                "launcher says by what; SIGKILL often comes of a system that is short of memory)"
            )
        if said is None:
            return RunError(
                f"rank {rank} hangs: the others have waited for it for {timeout:g} seconds, "
                "which --ddp_timeout sets"
            )
    return error


def _last_words(store: Any, rank: str) -> str | None:
    """What a process has met; empty where it waits for others, None where it says nothing."""
    try:
        store.wait([KEY.format(rank)], timedelta(seconds=PATIENCE))
        return str(store.get(KEY.format(rank)).decode())
    except Exception:
        return None


def store_of_the_run() -> Any:
    """What the processes of a run share; None before they have met, and in a run of one."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.distributed_c10d._get_default_store()
