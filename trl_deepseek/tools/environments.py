"""Environments under the contract: each object that TRL plays with stands in for one of the user's.

A stand-in's class has the name and the methods of the user's, so that TRL finds them as tools. Each
call has the deadline of tools, and is counted and told as theirs are. Python cannot stop what
overran its deadline: that object is given up, further calls of the episode are told so, and the
next episode begins with a new one. Where an episode cannot begin (``reset``), the run ends.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from trl_deepseek.errors import ConfigError, RunError
from trl_deepseek.tools import running
from trl_deepseek.tools.guarding import Guard
from trl_deepseek.types import Reward


class StandIn:
    """What TRL takes for an environment of the user's; all else of it is that one's."""

    def __init__(self, inner: Any) -> None:
        vars(self)["inner"] = inner
        vars(self)["lost"] = None  # why it was given up

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """That of the user's, for rewards that ask."""
        return type(vars(self)["inner"])

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["inner"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(vars(self)["inner"], name, value)


class Environments:
    """Makes the environments of one run, under the contract of its tools.

    Args:
        factory: As ``check_factory`` returns it.
        guard: Of the run's tools.

    Attributes:
        factory: What to give to TRL in its place.
        names: Of the environments, where rows choose one by name.
    """

    def __init__(self, factory: Any, guard: Guard) -> None:
        self._guard = guard
        self._kinds: dict[type, type] = {}
        new: Any = functools.partial(functools.partial, self._new)
        each = isinstance(factory, Mapping)
        self.factory: Any = {n: new(f) for n, f in factory.items()} if each else new(factory)
        self.names = tuple(factory) if each else ()

    def rewards(self) -> list[Reward]:
        """What scores the episodes, of each class that does, in TRL's order."""
        found = self._kinds.items()
        return [_reward(own, kind) for own, kind in found if "get_reward" in vars(kind)]

    def _new(self, factory: Callable[[], Any]) -> Any:
        inner = self._made(factory)
        own = type(inner)
        if own not in self._kinds:
            self._kinds[own] = self._kind(own, factory)
        return self._kinds[own](inner)

    def _made(self, factory: Callable[[], Any]) -> Any:
        made = running.attempt(factory, self._guard.settings.timeout)
        if made.failure is not None:
            name = getattr(factory, "__name__", repr(factory))
            raise ConfigError(f"environment_factory: {name} {made.failure}")
        return made.value

    def _kind(self, own: type, factory: Callable[[], Any]) -> type:
        members: dict[str, Any] = {n: self._tool(n, f) for n, f in methods_of(own).items()}
        if inspect.isfunction(getattr(own, "reset", None)):
            members["reset"] = self._reset(own.__name__, factory)
        if inspect.isfunction(getattr(own, "get_reward", None)):
            members["get_reward"] = _unguarded
        return type(own.__name__, (StandIn,), members)

    def _tool(self, name: str, method: Callable[..., Any]) -> Callable[..., str]:
        guard, signature = self._guard, inspect.signature(method)
        guard.add(name)

        @functools.wraps(method)
        def tool(self: StandIn, *args: Any, **arguments: Any) -> str:
            held = vars(self)

            def call() -> running.Outcome:
                if held["lost"] is not None:
                    return running.Outcome(failure=f"finds no environment: {held['lost']}")
                work = functools.partial(method, held["inner"], *args, **arguments)
                made = running.attempt(work, guard.settings.timeout)
                if made.timed_out:
                    held["lost"] = f"{name} {made.failure}"
                return made.as_text()

            return guard.called(
                name, lambda: signature.bind(self, *args, **arguments), call, arguments
            )

        return tool

    def _reset(self, name: str, factory: Callable[[], Any]) -> Callable[..., Any]:
        made, guard = self._made, self._guard

        def reset(self: StandIn, **row: Any) -> Any:
            held = vars(self)
            if held["lost"] is not None:
                held["inner"], held["lost"] = made(factory), None
            work = functools.partial(held["inner"].reset, **row)
            begun = running.attempt(work, guard.settings.timeout)
            said = begun.failure or guard.fault_in(str(begun.value))
            if said is None and begun.value is None and "prompt" not in row:
                said = "returns nothing, and the row has no prompt either"
            if said is not None:
                raise RunError(
                    f"environment {name!r}: reset {said}\n"
                    "  without it no episode can begin, whatever tool_on_error says"
                )
            return begun.value

        return reset


def methods_of(own: type) -> dict[str, Callable[..., Any]]:
    """The methods of an environment's class that are tools, by name."""
    return {
        name: method
        for name, method in inspect.getmembers(own, inspect.isfunction)
        if not name.startswith("_") and name not in ("reset", "get_reward")
    }


async def _unguarded(self: StandIn) -> float | None:
    """What TRL finds and starts an event loop for; the run has the contract in its place."""
    raise NotImplementedError


def _reward(own: Any, kind: type) -> Reward:
    """The score that each environment of a class gives its episode; None where it was given up."""

    def scores(environments: list[Any]) -> list[Any]:
        inner: list[Any] = [
            vars(e) if type(e) is kind else {"lost": "another"} for e in environments
        ]
        return [None if e["lost"] is not None else e["inner"].get_reward() for e in inner]

    def at_once(completions: list[Any], environments: list[Any]) -> list[float | None]:
        return scores(environments)

    async def awaited(completions: list[Any], environments: list[Any]) -> list[float | None]:
        return [None if each is None else await each for each in scores(environments)]

    is_async = inspect.iscoroutinefunction(own.get_reward)
    return Reward(own.__name__, awaited if is_async else at_once, samplewise=True)
