"""Rewards that do everything a reward must not do, where the completion says so."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from typing import Any

SCORE = 1.0  # of the completion "ok"


def act(what: str) -> Any:
    """The score of one completion, or the misdeed it names."""
    match what:
        case "ok":
            return SCORE
        case "raises":
            raise ValueError("boom")
        case "nan" | "inf":
            return float(what)
        case "string":
            return "a lot"
        case "dict":
            return {"score": 1.0}
        case "none":
            return None
        case "list":
            return [1.0, 2.0]
        case "hangs":
            while True:
                time.sleep(60)
        case "segfault":
            ctypes.string_at(0)
        case "exits":
            os._exit(3)
        case "allocates":
            return len(bytearray(10 << 30))
        case "prints":
            while True:
                print("x" * 1000)
        case "forks":
            while True:
                if os.fork() == 0:
                    time.sleep(60)
        case "deadlocks":
            lock = threading.Lock()
            lock.acquire()
            thread = threading.Thread(target=lock.acquire)
            thread.start()
            thread.join()
    raise AssertionError(what)


def per_sample(completion: str) -> Any:
    return act(completion)


async def per_sample_async(completion: str) -> Any:
    return act(completion)


def batch(completions: list[str], **_: Any) -> Any:
    if "wrong length" in completions:
        return [SCORE]
    if "scalar" in completions:
        return SCORE
    if "whole string" in completions:
        return "x" * len(completions)
    if "whole dict" in completions:
        return dict.fromkeys(completions, SCORE)
    return [act(completion) for completion in completions]


async def batch_async(completions: list[str], **_: Any) -> Any:
    return batch(completions)


def fine(completions: list[str], **_: Any) -> list[float]:
    return [0.5] * len(completions)
