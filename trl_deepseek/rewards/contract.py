"""The contract around every reward: how it is called, and what a bad score or no score means.

TRL calls a :class:`GuardedReward` in a reward's place. It scores equal samples once, keeps the
deadline, and for each sample has a finite score, an abstention, or a failure with its cause. What
a failure means is the run's ``reward_on_error``; that it happened is always counted and logged.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import pickle
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from trl_deepseek.errors import RewardError
from trl_deepseek.rewards import failures
from trl_deepseek.rewards.memory import Memory
from trl_deepseek.rewards.own_rows import among_others, only, own_places
from trl_deepseek.rewards.signature import Signature, name_of, signature_of
from trl_deepseek.workers.calls import Call, Failure, Outcome, Result

logger = logging.getLogger(__name__)

LOGS = ("log_metric", "log_extra")
COUNTED = ("errors", "timeouts", "abstained")


@dataclass(frozen=True)
class Settings:
    """How a run treats its rewards.

    Attributes:
        on_error: ``raise``, ``abstain``, or the score that a sample gets when a reward fails.
        timeout: Seconds that one call may take; None for no limit.
        workers: Worker processes for synchronous rewards; 0 scores in the training process.
        isolate: Whether every reward runs in worker processes of its own.
        memory: Bytes of private memory that a worker process may have.
        max_failures: A reward that fails on every sample of so many calls in a row stops the run.
        output_dir: Where a batch is kept that ended the run.
        max_completion_length: Most tokens of a completion; passed to rewards that take it.
        allow_unsandboxed_code: Whether generated code may run where there is no sandbox; passed to
            rewards that take it.
        processes: Of the run; TRL logs the mean of what they count, which is to be the sum.
    """

    on_error: Literal["raise", "abstain"] | float = "raise"
    timeout: float | None = 300.0
    workers: int = 0
    isolate: bool = False
    memory: int = 4 << 30
    max_failures: int = 3
    output_dir: str = "."
    max_completion_length: int | None = None
    allow_unsandboxed_code: bool = False
    processes: int = 1


class Runner(Protocol):
    """Makes calls of one reward: in threads, an event loop or worker processes."""

    def run(self, calls: Sequence[Call], stop_early: bool = False) -> list[Result]:
        """One result per call; blocks, and never raises for what the reward does."""

    def close(self) -> None:
        """Give up what is held between calls."""


class GuardedReward:
    """One reward under the contract, an async callable in TRL's batch form.

    Args:
        function: The reward.
        runner: Makes its calls.
        settings: What a failure means.
        origin: Where it comes from, for messages: ``plugin 'x'`` or a file.
        generation_prefix: Passed to rewards that take it: what the chat template writes after the
            assistant header, which a completion therefore lacks.
        remote: Whether the runner's calls leave this process.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        runner: Runner,
        settings: Settings,
        *,
        origin: str,
        generation_prefix: str,
        remote: bool,
    ) -> None:
        self.__name__ = name_of(function)
        self.function = function
        self.signature = signature_of(function)
        self.samplewise = self.signature.per_sample or getattr(function, "samplewise", False)
        self._runner = runner
        self._settings = settings
        self._origin = origin
        self._prefix = generation_prefix
        self._remote = remote
        self._failed_calls = 0
        self._memory = Memory(function, runner if remote else None)

    @property
    def remembers(self) -> bool:
        """Whether it offers ``state_dict()`` and ``load_state_dict(state)``."""
        return self._memory.holder is not None

    def take(self) -> dict[str, Any]:
        """The state for a checkpoint."""
        return {"failed_calls": self._failed_calls, **self._memory.take()}

    def give(self, held: dict[str, Any]) -> None:
        """Take the state of a checkpoint back."""
        self._failed_calls = held["failed_calls"]
        self._memory.give(held, f"reward {self.__name__!r} ({self._origin})")

    async def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any],
        **columns: Any,
    ) -> list[float | None]:
        """Score a batch.

        Raises:
            RewardError: A sample failed under ``on_error="raise"``, or the reward is broken.
        """
        outcomes = await self.outcomes(prompts, completions, completion_ids, **columns)
        failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
        if failed:
            logger.warning(
                "reward %r failed on %d of %d completions (reward_on_error: %s): %s",
                *(self.__name__, len(failed), len(outcomes), self._settings.on_error),
                failed[0].message,
            )
        instead = None if isinstance(self._settings.on_error, str) else self._settings.on_error
        return [instead if isinstance(outcome, Failure) else outcome for outcome in outcomes]

    async def outcomes(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any],
        **columns: Any,
    ) -> list[Outcome]:
        """What became of each sample of a batch: a score, None, or a failure; raises as a call."""
        log_metric = columns.pop("log_metric", None)
        log_extra = columns.pop("log_extra", None)
        arguments = {
            "prompts": list(prompts),
            "completions": list(completions),
            "completion_ids": list(completion_ids),
            "generation_prefix": self._prefix,
            "max_completion_length": self._settings.max_completion_length,
            "allow_unsandboxed_code": self._settings.allow_unsandboxed_code,
            **columns,
        }
        own = own_places(self.function, arguments)
        scored, results = await self._score(only(arguments, own))
        for result in results:
            for metric in result.metrics if log_metric else ():
                log_metric(*metric)
            for extra in result.extras if log_extra else ():
                log_extra(*extra)
        self._count(scored, log_metric)
        outcomes = among_others(scored, own, len(completions), None)
        step = getattr(columns.get("trainer_state"), "global_step", None)
        self._stop_if_broken(outcomes, arguments, step)
        return outcomes

    async def _score(self, arguments: dict[str, Any]) -> tuple[list[Outcome], list[Result]]:
        calls, places = plan(self.signature, self.samplewise, arguments, self._remote)
        if not calls:
            return [], []
        stop_early = self._settings.on_error == "raise"
        future = _in_thread(lambda: self._runner.run(calls, stop_early))
        results = await asyncio.wrap_future(future)
        scored = [outcome for result in results for outcome in result.outcomes]
        return [scored[place] for place in places], results

    def _count(self, outcomes: Sequence[Outcome], log_metric: Any) -> None:
        failed = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
        timeouts = sum(failure.kind == "timeout" for failure in failed)
        abstained = sum(outcome is None for outcome in outcomes)
        counts = (len(failed) - timeouts, timeouts, abstained)
        if log_metric is not None:
            for what, count in zip(COUNTED, counts, strict=True):
                log_metric(
                    f"rewards/{self.__name__}/{what}", float(count * self._settings.processes)
                )
        if outcomes:  # else no row was its own
            wholly = len(failed) == len(outcomes)
            self._failed_calls = self._failed_calls + 1 if wholly else 0

    def _stop_if_broken(
        self, outcomes: Sequence[Outcome], arguments: dict[str, Any], step: int | None
    ) -> None:
        """Raise for failures, where the settings say so or there is nothing else any more."""
        failed = any(isinstance(outcome, Failure) for outcome in outcomes)
        on_error = self._settings.on_error
        broken = self._failed_calls >= self._settings.max_failures
        if failed and (on_error == "raise" or broken):
            place = failures.save(
                self._settings.output_dir, self.__name__, step, arguments, outcomes
            )
            raise RewardError(
                failures.message(
                    f"reward {self.__name__!r} ({self._origin})",
                    step,
                    arguments,
                    outcomes,
                    place,
                    calls_in_a_row=self._failed_calls if on_error != "raise" else None,
                )
            )


def plan(
    signature: Signature, samplewise: bool, arguments: dict[str, Any], remote: bool = False
) -> tuple[list[Call], list[int]]:
    """The calls that score a batch, and for each sample the place of its outcome.

    A reward that scores each sample by itself is called once per distinct sample; any other once,
    with the whole batch.

    Args:
        signature: How the reward is called.
        samplewise: Whether a score depends on that sample alone.
        arguments: Keyword arguments of a batch call, without the log functions.
        remote: Whether the calls leave this process.
    """
    count = len(arguments["completions"])
    if remote:
        arguments = _portable(signature, arguments)
    logs = tuple(log for log in LOGS if signature.accepts is None or log in signature.accepts)
    if not samplewise:
        return [Call(signature.select(arguments), count, logs)] if count else [], list(range(count))
    logs = tuple(log for log in logs if log == "log_metric")  # log_extra is about a whole batch
    if signature.per_sample:
        samples = signature.samples(arguments)
    else:
        samples = [signature.select(_rows(arguments, slice(i, i + 1), count)) for i in range(count)]
    size = 0 if signature.per_sample else 1
    places, distinct = _distinct(arguments["completions"], samples)
    return [Call(sample, size, logs) for sample in distinct], places


def _rows(arguments: dict[str, Any], rows: slice, count: int) -> dict[str, Any]:
    return {
        name: value[rows] if isinstance(value, list) and len(value) == count else value
        for name, value in arguments.items()
    }


def _portable(signature: Signature, arguments: dict[str, Any]) -> dict[str, Any]:
    """What may leave the process: not environments, the state only by name and without its log."""
    kept = {name: value for name, value in arguments.items() if name != "environments"}
    state = kept.pop("trainer_state", None)
    if state is not None and signature.accepts is not None and "trainer_state" in signature.accepts:
        kept["trainer_state"] = type(state)(**{**vars(state), "log_history": []})
    return kept


def _distinct(
    completions: Sequence[Any], samples: Sequence[dict[str, Any]]
) -> tuple[list[int], list[dict[str, Any]]]:
    """Place of each sample among the distinct ones, and these."""
    texts = [c if isinstance(c, str) else repr(c) for c in completions]
    if len(set(texts)) == len(texts):  # the usual case, decided without looking at the columns
        return list(range(len(samples))), list(samples)
    known: dict[bytes, int] = {}
    places: list[int] = []
    distinct: list[dict[str, Any]] = []
    for sample in samples:
        try:
            # Equal bytes are equal samples; the reverse may fail, and then costs one more call.
            key = pickle.dumps(sample)
        except Exception:  # whatever an odd column raises: then it cannot be compared
            key = str(id(sample)).encode()
        if key not in known:
            known[key] = len(distinct)
            distinct.append(sample)
        places.append(known[key])
    return places, distinct


def _in_thread(work: Callable[[], Any]) -> concurrent.futures.Future[Any]:
    """Run ``work`` in a daemon thread, which a run that ends does not wait for."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # handed to whoever awaits the future
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
