"""From what a user wrote in ``tools`` and ``environment_factory`` to functions, before a model."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Mapping
from types import MethodType
from typing import Any

from trl_deepseek.errors import ConfigError
from trl_deepseek.registry import Registry
from trl_deepseek.sources import import_function
from trl_deepseek.tools.environments import methods_of
from trl_deepseek.tools.guarding import Settings
from trl_deepseek.types import Tool


def resolve(tools: Any, registry: Registry) -> list[Tool]:
    """Turn each name into a tool.

    Args:
        tools: One, or a list, of: a registered name, ``file.py:function``, ``module.function``,
            ``module:function``, a function.
        registry: Where names are looked up.

    Raises:
        UnknownName: No plugin registers a tool of that name.
        PluginError: A file or module does not load or has no such function.
        ConfigError: Two tools have one name, or the model could not be told of one.
    """
    if tools is None:
        return []
    given = list(tools) if isinstance(tools, (list, tuple)) else [tools]
    found: dict[str, Tool] = {}
    for item in given:
        tool = _resolve_one(item, registry)
        if tool.name in found:
            raise ConfigError(
                f"two tools are named {tool.name!r}\n  rename one function, or list it once"
            )
        check(tool)
        found[tool.name] = tool
    return list(found.values())


def _resolve_one(item: Any, registry: Registry) -> Tool:
    if isinstance(item, str):
        if item in registry.tools:
            return registry.tools[item]
        if ":" in item or "." in item:
            item = import_function(item)
        else:
            return registry.tools[item]  # raises, with the nearest name
    if isinstance(item, Tool):
        return item
    name = getattr(item, "__name__", None)
    if not callable(item) or not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(f"a tool is a name or a function that has one, not {item!r}")
    return Tool(name, item)


def check(tool: Tool) -> None:
    """Refuse a tool that the model could not be told of, or that lacks a module.

    Raises:
        ConfigError: See the messages.
    """
    for module in tool.requires:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"tool {tool.name!r} needs the module {module!r}, which is not installed\n"
                f"  install it with: pip install {module}"
            )
    _describe(tool.name, tool.function)


def _describe(name: str, function: Any) -> None:
    from transformers.utils import get_json_schema

    try:
        get_json_schema(function)
    except Exception as error:  # a missing docstring, hint or argument, each with its own error
        raise ConfigError(
            f"tool {name!r} cannot be described to the model: {error}\n"
            "  give it a docstring with a line for each argument under Args:, and type hints"
        ) from error


def check_factory(factory: Any, settings: Settings) -> Any:
    """What makes environments: a class or function, or a mapping of them by name.

    Args:
        factory: Each may be named as ``file.py:Class``, ``module.Class`` or ``module:Class``.
        settings: Of the run's tools.

    Raises:
        PluginError: A file or module does not load or has no such class.
        ConfigError: It is none, or its environments cannot be reset, described to the model or
            isolated.
    """
    if factory is None:
        return None
    if settings.isolate:
        raise ConfigError(
            "tool_isolation: environments live in the training process, and so do their methods\n"
            "  leave it out; a tool beside them may be registered with isolate=True"
        )
    if isinstance(factory, Mapping):
        return {str(name): check_factory(each, settings) for name, each in factory.items()}
    found = import_function(factory) if isinstance(factory, str) else factory
    if not callable(found):
        raise ConfigError(
            f"environment_factory is {found!r}; name a class: file.py:Class or module.Class"
        )
    if inspect.isclass(found) and not callable(getattr(found, "reset", None)):
        raise ConfigError(
            f"environment_factory: {found.__name__} has no method reset, which begins an episode\n"
            "  add reset(self, **row) -> str | None; what it returns is added to the prompt"
        )
    for name, method in methods_of(found).items() if inspect.isclass(found) else ():
        _describe(f"{found.__name__}.{name}", MethodType(method, found))
    return found
