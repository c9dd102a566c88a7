"""What a reward function wants to be called with, read from its signature.

Two forms are rewards, sync or async, as functions, ``functools.partial`` or callable objects:

- batch, TRL's own: ``f(prompts, completions, completion_ids, **columns) -> list[float | None]``;
- per sample: ``f(completion: str, solution: str) -> float | None``, recognised by the parameter
  ``completion``. The completion is its text, each column is the row's own value.

Either is passed only what it has parameters for, so neither needs a ``**_`` to swallow the rest.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trl_deepseek.chat.reasoning import texts
from trl_deepseek.errors import ConfigError
from trl_deepseek.types import Reward

# What our trainer passes of the run: what the template wrote after the assistant header, the most
# tokens of a completion, and whether generated code may run where there is no sandbox.
OPTIONS = frozenset({"generation_prefix", "max_completion_length", "allow_unsandboxed_code"})
# What a trainer passes beside the dataset's columns.
PROVIDED = OPTIONS | frozenset(
    {
        *("prompts", "completions", "completion_ids"),
        *("prompt", "completion"),
        *("trainer_state", "log_extra", "log_metric", "environments"),
    }
)
# Of these, the ones that hold one value per sample.
PER_SAMPLE = {"prompt": "prompts", "completion": "completions", "completion_ids": "completion_ids"}
_WHOLE = OPTIONS | frozenset({"trainer_state", "log_extra", "log_metric"})


def name_of(function: Any) -> str:
    """The name a reward is logged under: as registered, else the function's or its class's.

    A model id or folder is known by its last part, as TRL does.
    """
    if isinstance(function, str):
        return function.rstrip("/").rpartition("/")[2]
    while isinstance(function, functools.partial):
        function = function.func
    if hasattr(function, "config") and hasattr(function, "forward"):  # a reward model
        return str(getattr(function.config, "_name_or_path", "")).rpartition("/")[2]
    return str(getattr(function, "__name__", type(function).__name__))


@dataclass(frozen=True)
class Signature:
    """How to call one reward function.

    Attributes:
        per_sample: Whether it scores one completion per call.
        is_async: Whether a call returns an awaitable.
        accepts: Names of its parameters; None where it takes any keyword.
        required: Names of the parameters without default.
    """

    per_sample: bool
    is_async: bool
    accepts: frozenset[str] | None
    required: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The dataset columns it cannot be called without."""
        return tuple(name for name in self.required if name not in PROVIDED)

    def select(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``arguments`` that the function takes."""
        if self.accepts is None:
            return dict(arguments)
        return {name: value for name, value in arguments.items() if name in self.accepts}

    def samples(self, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The keyword arguments of each per-sample call, from those of a batch call."""
        count = len(arguments["completions"])
        given: dict[str, Sequence[Any]] = {}
        for one, many in PER_SAMPLE.items():
            given[one] = arguments.get(many) or [None] * count
        given["completion"] = texts(given["completion"], arguments.get("generation_prefix"))
        whole = {}
        for name, value in arguments.items():
            if name in _WHOLE:
                whole[name] = value
            elif name not in PER_SAMPLE.values():
                given[name] = value
        chosen, shared = self.select(given), self.select(whole)
        return [
            {**{name: values[i] for name, values in chosen.items()}, **shared} for i in range(count)
        ]


def signature_of(function: Callable[..., Any]) -> Signature:
    """Read the signature of a reward function (or of what stands behind a registered one).

    Raises:
        ConfigError: It has neither ``completions`` nor ``completion``, or takes an argument that
            cannot be passed by name.
    """
    name = name_of(function)
    if isinstance(function, Reward):
        function = function.function
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    is_async = inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(
        getattr(inner, "__call__", None)  # noqa: B004 - asked about its kind, not its presence
    )
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some compiled functions do not tell
        return Signature(False, is_async, None, ())
    unnamed = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]
    if unnamed:
        raise ConfigError(
            f"reward {name!r}: parameter {unnamed[0]!r} is positional-only, but rewards are called "
            f"with keywords\n  remove the '/' from its signature"
        )
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    accepts = frozenset(p.name for p in named)
    if not takes_any and not accepts & {"completion", "completions"}:
        raise ConfigError(
            f"reward {name!r} takes ({', '.join(p.name for p in named)}), which has neither "
            f"'completions' nor 'completion'\n"
            f"  write f(completions, **columns) -> list of scores, or f(completion) -> score"
        )
    per_sample = "completion" in accepts and "completions" not in accepts
    required = tuple(p.name for p in named if p.default is p.empty)
    return Signature(per_sample, is_async, None if takes_any else accepts, required)
