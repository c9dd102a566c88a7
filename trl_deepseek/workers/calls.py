"""One call of a reward: run it, and turn whatever comes out into one outcome per sample.

Shared by the training process and the worker processes, so that a reward is judged alike in both.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
import reprlib
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, Literal

from trl_deepseek.errors import describe

# Beyond this the squares in a standard deviation overflow 32-bit floats (3.4e38) for a group.
LARGEST = 1e18
# Characters of a traceback, or of a worker's output, that are kept.
DETAIL = 4000


@dataclass(frozen=True)
class Failure:
    """Why one sample has no score.

    Attributes:
        kind: ``timeout``, or ``error`` for everything else.
        message: One line.
        detail: Traceback or last output; may be empty.
    """

    kind: Literal["error", "timeout"]
    message: str
    detail: str = ""


Outcome = float | None | Failure


@dataclass
class Result:
    """What one call gave.

    Attributes:
        outcomes: One per sample of the call; None abstains.
        metrics: Arguments of the calls to ``log_metric``, in order.
        extras: Arguments of the calls to ``log_extra``, in order.
        seconds: What the call took.
    """

    outcomes: list[Outcome]
    metrics: list[tuple[str, float]] = field(default_factory=list)
    extras: list[tuple[str, list[Any]]] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Call:
    """One call to make.

    Attributes:
        arguments: Keyword arguments.
        count: Samples it scores; 0 for a per-sample function, which returns one bare score.
        logs: Which of ``log_metric`` and ``log_extra`` the function wants.
    """

    arguments: Mapping[str, Any]
    count: int
    logs: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """How many outcomes it gives."""
        return self.count or 1

    def failed(self, failure: Failure, seconds: float = 0.0) -> Result:
        """The result when every sample of the call failed alike."""
        return Result([failure] * self.samples, seconds=seconds)


def perform(
    function: Callable[..., Any], call: Call, wait: Callable[[Awaitable[Any]], Any]
) -> Result:
    """Make the call in this thread; never raises for what the reward does.

    Args:
        function: The reward function.
        call: What to call it with.
        wait: Runs an awaitable to its end, for async functions.
    """
    result, logs = _recorder(call)
    start = time.perf_counter()
    try:
        value = function(**call.arguments, **logs)
        if inspect.isawaitable(value):
            value = wait(value)
        result.outcomes = judge(value, call.count)
    except BaseException as error:  # a reward may raise anything; all of it is a failure
        result = call.failed(_failure(error))
    result.seconds = time.perf_counter() - start
    return result


def run_to_end(awaitable: Awaitable[Any]) -> Any:
    """The result of an awaitable, in an event loop made for it."""

    async def result() -> Any:
        return await awaitable

    return asyncio.run(result())


async def perform_async(function: Callable[..., Any], call: Call) -> Result:
    """As :func:`perform`, inside a running event loop."""
    result, logs = _recorder(call)
    start = time.perf_counter()
    try:
        value = function(**call.arguments, **logs)
        result.outcomes = judge(await value if inspect.isawaitable(value) else value, call.count)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():  # from outside, at the deadline
            raise
        result = call.failed(_failure(error))
    except BaseException as error:  # as in perform
        result = call.failed(_failure(error))
    result.seconds = time.perf_counter() - start
    return result


def _recorder(call: Call) -> tuple[Result, dict[str, Any]]:
    # What is logged counts only if the call ends well, and has to cross from a worker process.
    result = Result([])
    sinks = {
        "log_metric": lambda name, value: result.metrics.append((str(name), float(value))),
        # A generator may have no end.
        "log_extra": lambda column, values: result.extras.append(
            (str(column), list(itertools.islice(values, call.samples + 1)))
        ),
    }
    return result, {name: sinks[name] for name in call.logs}


def judge(value: Any, count: int) -> list[Outcome]:
    """One outcome per sample from what a reward returned.

    Args:
        value: What it returned.
        count: Scores that were due; 0 where it should be one bare score.
    """
    if count == 0:
        return [judge_score(value)]
    if hasattr(value, "tolist"):  # a tensor or an array, without importing either
        value = value.tolist()
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        return [Failure("error", f"returned {_show(value)}, not a list of {count} scores")] * count
    scores = list(itertools.islice(value, count + 1))  # a generator may have no end
    if len(scores) != count:
        found = f"{len(scores)}" if len(scores) <= count else _number_of(value, count)
        message = f"returned {found} scores for {count} completions"
        return [Failure("error", message)] * count
    return [judge_score(score) for score in scores]


def _number_of(scores: Iterable[Any], count: int) -> str:
    return str(len(scores)) if isinstance(scores, Sized) else f"more than {count}"


def judge_score(value: Any) -> Outcome:
    """The score as a float, None where it abstains, or what is wrong with it."""
    if value is None:
        return None
    if type(value) is not float:
        if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__float__"):
            return Failure("error", f"returned {_show(value)}, not a number")
        try:
            value = float(value)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            return Failure("error", f"returned {_show(value)}, not a number: {error}")
    if math.isnan(value):
        return Failure("error", "returned nan; return None to abstain")
    if not -LARGEST <= value <= LARGEST:
        return Failure("error", f"returned {value}; a score lies within {LARGEST:g} of 0")
    return float(value)


def _failure(error: BaseException) -> Failure:
    # The frames of this file tell a reward's author nothing.
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    return Failure("error", describe(error), text[-DETAIL:])


def _show(value: Any) -> str:
    # reprlib writes only as much as is shown, and survives a __repr__ that raises.
    text = reprlib.repr(value)
    return f"the {type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"
