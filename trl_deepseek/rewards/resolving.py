"""From what a user wrote in ``reward_funcs`` to functions, before a model is loaded."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from trl_deepseek.errors import ConfigError, DataError
from trl_deepseek.registry import Registry
from trl_deepseek.rewards.model_reward import DeferredReward
from trl_deepseek.rewards.signature import name_of, signature_of
from trl_deepseek.sandbox import running as sandbox
from trl_deepseek.sources import import_function
from trl_deepseek.types import Reward

logger = logging.getLogger(__name__)

MODEL_PREFIX = "model:"


def resolve(reward_funcs: Any, registry: Registry) -> list[Any]:
    """Turn each name into a reward; what is a reward already stays as it is.

    Args:
        reward_funcs: One, or a list, of: a registered name, ``file.py:function``,
            ``module.function``, ``module:function``, ``model:PATH`` or a model id (``owner/name``
            or a folder) of a reward model, a function, a loaded reward model.
        registry: Where names are looked up.

    Returns:
        Registered rewards, functions, reward models and model ids, in the order given. What
        ``model:PATH`` names is a function that loads the model when it is first called.

    Raises:
        UnknownName: No plugin registers a reward of that name.
        PluginError: A file or module does not load or has no such function.
        ConfigError: Two rewards would be logged under one name, or one cannot be called as a
            reward or lacks a module.
        ModelError: There is no reward model at ``PATH``.
    """
    if reward_funcs is None:
        return []
    given = list(reward_funcs) if isinstance(reward_funcs, (list, tuple)) else [reward_funcs]
    functions = _named([_resolve_one(item, registry) for item in given])
    places: dict[str, Any] = {}
    for item, function in zip(given, functions, strict=True):
        if is_function(function):
            signature_of(function)
        name = name_of(function)
        for module in getattr(function, "requires", ()):
            if importlib.util.find_spec(module) is None:
                raise ConfigError(
                    f"reward {name!r} needs the module {module!r}, which is not installed\n"
                    f"  install it with: pip install {module}"
                )
        check = getattr(function, "check", None) if isinstance(function, Reward) else None
        lacking = None if check is None else check()
        if lacking is not None:
            raise ConfigError(f"reward {name!r}: {lacking}")
        if name in places:
            raise ConfigError(
                f"two rewards are named {name!r}: {places[name]!r} and {item!r}\n"
                f"  each is logged as rewards/{name}; rename one function, or list it once"
            )
        places[name] = item
    return functions


def check_columns(functions: Sequence[Any], column_names: Iterable[str]) -> None:
    """Check that the dataset has every column that a reward needs.

    Args:
        functions: As :func:`resolve` returns them.
        column_names: Columns of the dataset.

    Raises:
        DataError: One is missing; the message names the reward, the column and what was found.
    """
    found = list(column_names)
    for function in functions:
        for column in columns_of([function]):
            if column not in found:
                raise DataError(
                    f"reward {name_of(function)!r} needs the column {column!r}, which the dataset "
                    "does not have\n"
                    f"  columns found: {', '.join(found) or '(none)'}\n"
                    f"  another column can stand for it: --columns OTHER={column}"
                )


def columns_of(functions: Sequence[Any]) -> list[str]:
    """The columns of the dataset that rewards read by name, in their order."""
    read: dict[str, None] = {}
    for function in filter(is_function, functions):
        registered = function.columns if isinstance(function, Reward) else ()
        read |= dict.fromkeys((*registered, *signature_of(function).columns))
    return list(read)


def check_kept(functions: Sequence[Any], args: Any) -> None:
    """Refuse to have the columns removed that rewards read.

    Raises:
        ConfigError: Names the first reward and its columns.
    """
    for function in functions if args.remove_unused_columns else ():
        read = columns_of([function])
        if read:
            raise ConfigError(
                f"remove_unused_columns: reward {name_of(function)!r} reads {', '.join(read)}, "
                "which would be gone\n  leave it out"
            )


def check_sandbox(functions: Sequence[Any], allow_unsandboxed: bool) -> str | None:
    """Check that rewards which run generated code have a sandbox to run it in.

    Args:
        functions: As :func:`resolve` returns them.
        allow_unsandboxed: Whether they may run it without.

    Returns:
        How they run it: ``bubblewrap`` or ``unsandboxed``; None where no reward runs code.

    Raises:
        ConfigError: There is no sandbox, and running without was not allowed.
    """
    if not any(getattr(function, "runs_code", False) for function in functions):
        return None
    reason = sandbox.unavailable()
    if reason is None:
        return "bubblewrap"
    if not allow_unsandboxed:
        sandbox.require()
    logger.warning("generated code runs with your rights on this machine: %s", reason)
    return "unsandboxed"


def _resolve_one(item: Any, registry: Registry) -> Any:
    if isinstance(item, str):
        if item in registry.rewards:
            return registry.rewards[item]
        if item.startswith(MODEL_PREFIX):
            return DeferredReward(item.removeprefix(MODEL_PREFIX), registry)
        if ":" in item:
            return _as_written(item)
        if "/" in item or Path(item).is_dir():
            return item
        if item.endswith(".py") and Path(item).expanduser().is_file():
            raise ConfigError(f"reward {item!r} is a file: name a function in it, {item}:FUNCTION")
        if "." in item:
            return _as_written(item)
        return registry.rewards[item]  # raises, with the nearest name
    if not callable(item):
        raise ConfigError(
            f"a reward is a name, a function or a model, not the {type(item).__name__} {item!r}"
        )
    return item


def _as_written(target: str) -> Any:
    """What ``file.py:name`` names, under that name: an object or a lambda has no other."""
    function = import_function(target)
    name = target.rpartition(":" if ":" in target else ".")[2]
    if isinstance(function, Reward) or name_of(function) == name or not is_function(function):
        return function
    return Reward(name, function)


def _named(functions: list[Any]) -> list[Any]:
    """Lambdas, which all have one name, are ``lambda``, ``lambda_2`` and so on."""
    seen = 0
    named = []
    for function in functions:
        if callable(function) and name_of(function) == "<lambda>":
            seen += 1
            function = Reward("lambda" if seen == 1 else f"lambda_{seen}", function)
        named.append(function)
    return named


def is_function(reward: Any) -> bool:
    """Whether a resolved reward is a function rather than a reward model or its id."""
    # Told apart without importing torch, which a check of names must not need.
    return callable(reward) and not (hasattr(reward, "forward") and hasattr(reward, "parameters"))
