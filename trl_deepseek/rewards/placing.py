"""Choose where each reward runs, and put it under the contract.

- An async reward runs in an event loop of its own.
- A synchronous one runs in a thread; with ``reward_workers``, in a pool of worker processes that
  such rewards share.
- With ``isolate`` (per reward) or ``reward_isolation`` (all), in worker processes of its own.
"""

from __future__ import annotations

import dis
import functools
import inspect
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trl_deepseek.checkpoints.states import Stateful
from trl_deepseek.errors import ConfigError
from trl_deepseek.registry import Registry
from trl_deepseek.rewards.contract import GuardedReward, Runner, Settings
from trl_deepseek.rewards.resolving import is_function
from trl_deepseek.rewards.signature import name_of, signature_of
from trl_deepseek.types import Reward
from trl_deepseek.workers.calls import Call, Result
from trl_deepseek.workers.inprocess import LoopRunner, ThreadRunner
from trl_deepseek.workers.pool import Pool
from trl_deepseek.workers.remembering import holder_of
from trl_deepseek.workers.shipping import Shipment, ship

logger = logging.getLogger(__name__)


class Guards:
    """The rewards of one run under the contract, and the worker processes they use.

    Args:
        functions: As ``resolve`` returns them; reward models are left to TRL.
        registry: Says which plugin a reward comes from.
        settings: What a failure means, and where rewards run.
        generation_prefix: See :class:`GuardedReward`.
        prepare: Called first in each thread that a synchronous reward runs in.

    Attributes:
        functions: What to give to TRL in their place, in the same order.

    Raises:
        ConfigError: A reward that has to run in a worker process cannot.
    """

    def __init__(
        self,
        functions: Sequence[Any],
        registry: Registry,
        settings: Settings,
        generation_prefix: str = "",
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self._settings = settings
        self._prepare = prepare
        self._pools: list[Pool] = []
        self._runners: list[Runner] = []
        self._shared: Pool | None = None
        self._registry, self._prefix = registry, generation_prefix
        try:
            self.functions = [
                self.guard(function) if is_function(function) else function
                for function in functions
            ]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the worker processes and event loops."""
        for runner in self._runners:
            runner.close()
        for pool in self._pools:
            pool.close()
        self._runners.clear()
        self._pools.clear()

    def with_state(self) -> dict[str, Stateful]:
        """What the rewards remember from call to call; see :mod:`trl_deepseek.checkpoints.states`.

        Each counts its failures in a row; one that offers ``state_dict`` has that besides.
        """
        guarded = [each for each in self.functions if isinstance(each, GuardedReward)]
        return {
            f"reward {each.__name__!r}": Stateful(each.take, each.give, each.remembers)
            for each in guarded
        }

    def guard(self, function: Any) -> GuardedReward:
        """One reward under the contract.

        Raises:
            ConfigError: It has to run in a worker process and cannot.
        """
        runner, remote = self._runner(function)
        self._runners.append(runner)
        return GuardedReward(
            function,
            runner,
            self._settings,
            origin=origin_of(function, self._registry),
            generation_prefix=self._prefix,
            remote=remote,
        )

    def _runner(self, function: Any) -> tuple[Runner, bool]:
        """Where the reward runs, and whether that is in another process."""
        settings = self._settings
        inner = function.function if isinstance(function, Reward) else function
        limit = getattr(function, "timeout", None)
        timeout = settings.timeout if limit is None else limit
        signature = signature_of(function)
        name = name_of(function)
        remembers = holder_of(inner) is not None  # then in one place, for all of its calls
        if settings.isolate or getattr(function, "isolate", False):
            if "environments" in signature.required:
                raise ConfigError(
                    f"reward {name!r} takes 'environments', which live in the training process, "
                    f"so it cannot run isolated"
                )
            pool = self._pool(1 if remembers else max(1, settings.workers))
            return _in_pool(pool, name, ship(inner, name), timeout), True
        if signature.is_async:
            return LoopRunner(inner, timeout), False
        if settings.workers and "environments" not in signature.required:
            try:
                shipment = ship(inner, name)
            except ConfigError as error:
                logger.warning("%s\n  it runs in the training process", error)
            else:
                if remembers:
                    return _in_pool(self._pool(1), name, shipment, timeout), True
                if settings.workers > 1:
                    _say_that_copies_differ(name, inner, settings.workers)
                self._shared = self._shared or self._pool(settings.workers)
                return _in_pool(self._shared, name, shipment, timeout), True
        return ThreadRunner(inner, timeout, self._prepare), False

    def _pool(self, workers: int) -> Pool:
        pool = Pool(workers, self._settings.memory)
        self._pools.append(pool)
        return pool


class _PoolRunner:
    def __init__(self, pool: Pool, key: str, timeout: float | None) -> None:
        self._pool = pool
        self._key = key
        self._timeout = timeout

    def run(self, calls: Sequence[Call], stop_early: bool = False) -> list[Result]:
        return self._pool.run(self._key, calls, self._timeout, stop_early)

    def take_state(self) -> Any:
        """What the reward in the worker remembers."""
        return self._pool.state(self._key)

    def give_state(self, state: Any) -> None:
        """Have the reward in the worker remember ``state``."""
        self._pool.set_state(self._key, state)

    def close(self) -> None:
        """The pool is closed by itself, others may use it."""


def _say_that_copies_differ(name: str, function: Any, workers: int) -> None:
    while isinstance(function, functools.partial):
        function = function.func
    why = f"is a {type(function).__name__}"
    if inspect.isfunction(function):
        steps = dis.get_instructions(inspect.unwrap(function))
        kept = [str(step.argval) for step in steps if step.opname == "STORE_GLOBAL"]
        why = f"assigns the global {kept[0]!r}" if kept else ""
    if why and not inspect.isbuiltin(function):
        logger.warning(
            "reward %r %s: each of the %d worker processes has a copy of its own, and what "
            "one of them remembers the others do not, nor does a checkpoint\n"
            "  where its scores depend on earlier calls: give it state_dict() and "
            "load_state_dict(state), which keep it in one worker and its state in checkpoints",
            *(name, why, workers),
        )


def _in_pool(pool: Pool, name: str, shipment: Shipment, timeout: float | None) -> _PoolRunner:
    pool.add(name, shipment)
    pool.check(name)
    return _PoolRunner(pool, name, timeout)


def origin_of(function: Any, registry: Registry) -> str:
    """Where a reward comes from: its plugin, else the file or class that defines it."""
    inner = function
    if isinstance(function, Reward):
        inner = function.function
        # By name: the run may have another registry than the one the reward was resolved with.
        for entry in registry.entries("rewards"):
            if entry.name == function.name:
                return f"plugin {entry.origin.plugin!r}"
    code = inspect.unwrap(getattr(inner, "func", inner))
    try:
        file = inspect.getsourcefile(code if inspect.isroutine(code) else type(code))
    except TypeError:  # built in
        file = None
    if not file:
        return f"a {type(inner).__name__}"
    inside = Path(file).is_relative_to(Path.cwd())
    return os.path.relpath(file) if inside else file
