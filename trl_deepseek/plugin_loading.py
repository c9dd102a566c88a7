"""Load plugins and answer: what stands behind this name, and where does it come from?

Plugins come through three doors and one loader: installed distributions (entry-point group
``trl_deepseek``), Python files, and importable modules. An installed plugin that is broken is kept
as a :class:`BrokenPlugin` and reported; it stops a run only if the run names one of its items. A
plugin that the user named and that does not load is an error at once.

pluggy's own ``load_setuptools_entrypoints`` is not used: it skips the second of two plugins with
one name in silence, stops at the first broken distribution, and keeps the file system's order.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pluggy

from trl_deepseek import hookspecs
from trl_deepseek.errors import ConfigError, PluginError, boundary, did_you_mean
from trl_deepseek.policy_types import Advantage, PolicyLoss
from trl_deepseek.registry import (
    HOOKS,
    KINDS,
    SINGULAR,
    BrokenPlugin,
    Catalog,
    Entry,
    Origin,
    Registry,
)
from trl_deepseek.sources import import_file, import_module, no_exit
from trl_deepseek.types import (
    ChatTemplate,
    EmbeddedDataset,
    Loss,
    Metric,
    Preset,
    Quantization,
    Reward,
    Tool,
)

PLUGINS_VARIABLE = "TRL_DEEPSEEK_PLUGINS"
BLOCK_VARIABLE = "TRL_DEEPSEEK_BLOCK"

# Kinds whose items carry what they were registered with; the others are kept as they are.
WRAPPED: Mapping[str, type] = MappingProxyType(
    {
        "advantages": Advantage,
        "datasets": EmbeddedDataset,
        "losses": Loss,
        "metrics": Metric,
        "policy_losses": PolicyLoss,
        "rewards": Reward,
        "tools": Tool,
    }
)
DATACLASSES: Mapping[str, type] = MappingProxyType(
    {"chat_templates": ChatTemplate, "quantizations": Quantization, "presets": Preset}
)

__all__ = [
    "BLOCK_VARIABLE",
    "HOOKS",
    "KINDS",
    "PLUGINS_VARIABLE",
    "SINGULAR",
    "BrokenPlugin",
    "Catalog",
    "Entry",
    "Origin",
    "Registry",
    "load_registry",
]


def load_registry(plugins: Iterable[Any] = (), block: Iterable[str] = ()) -> Registry:
    """Load every installed plugin and those named here or in the environment.

    Args:
        plugins: Paths of Python files, names of modules, or objects with hook implementations,
            beside those in ``TRL_DEEPSEEK_PLUGINS`` (separated by commas).
        block: Names of plugins to leave out, beside those in ``TRL_DEEPSEEK_BLOCK``.

    Raises:
        PluginError: A plugin named here does not load, a hook or hook parameter of it is unknown,
            or two plugins register one name.
        ConfigError: ``block`` names a plugin that is not there; the environment may.
    """
    block = tuple(block)
    named = [*_listed(PLUGINS_VARIABLE), *plugins]
    blocked_names = {*_listed(BLOCK_VARIABLE), *block}
    entries: dict[tuple[str, str], Entry] = {}
    broken: list[BrokenPlugin] = []
    blocked: list[Origin] = []

    installed = _installed()
    for point, origin in installed:
        if origin.plugin in blocked_names:
            blocked.append(origin)
            continue
        try:
            with boundary(functools.partial(PluginError, origin.plugin)), no_exit():
                plugin = point.load()
            offered = _offers(plugin, origin)
        except PluginError as error:
            broken.append(BrokenPlugin(origin, str(error).splitlines()[0]))
            continue
        _add(entries, offered)

    seen: set[Any] = set()
    names: Counter[str] = Counter()
    for target in named:
        plugin, origin = _named_plugin(target)
        # The same plugin in a flag, the config and the environment is one plugin; two objects are
        # two, also of one class.
        key = (origin.plugin, origin.file) if origin.file else id(plugin)
        if key in seen:
            continue
        seen.add(key)
        names[origin.plugin] += 1
        if names[origin.plugin] > 1:  # so that each can be blocked
            origin = replace(origin, plugin=f"{origin.plugin}-{names[origin.plugin]}")
        if origin.plugin in blocked_names:
            blocked.append(origin)
        else:
            _add(entries, _offers(plugin, origin))
    _refuse_strangers(block, blocked, [*names, *(p.name for p, _ in installed)])
    return Registry(entries.values(), broken, blocked)


def _listed(variable: str) -> list[str]:
    return [part.strip() for part in os.environ.get(variable, "").split(",") if part.strip()]


def _installed() -> list[tuple[importlib.metadata.EntryPoint, Origin]]:
    points = importlib.metadata.entry_points(group=hookspecs.PROJECT)
    found = []
    # One distribution has many entry points, and parses its metadata each time it is asked.
    said: dict[int, tuple[str, str] | tuple[None, None]] = {}
    for point in sorted(points, key=lambda point: (point.name, point.value)):
        if id(point.dist) not in said:
            of = point.dist
            said[id(of)] = (of.name, of.version) if of else (None, None)
        distribution, version = said[id(point.dist)]
        found.append((point, Origin(point.name, distribution, version, _module_file(point))))
    return found


def _module_file(point: importlib.metadata.EntryPoint) -> str | None:
    """The file an entry point names, found without running it, so that a broken one has it too."""
    package, _, rest = point.module.partition(".")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for root in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(root, *rest.split(".")) if rest else Path(root)
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return str(candidate)
    return spec.origin if spec and not rest else None


def _named_plugin(target: Any) -> tuple[Any, Origin]:
    """Load what the user named: a file, a module, or an object as it is."""
    if isinstance(target, (str, os.PathLike)):
        text = os.fspath(target)
        looks_like_file = text.endswith(".py") or os.sep in text or Path(text).is_file()
        plugin = import_file(text) if looks_like_file else import_module(text)
        name = Path(text).stem if looks_like_file else text
    else:
        plugin = target
        name = getattr(target, "__name__", type(target).__name__)
    return plugin, Origin(name, None, None, getattr(plugin, "__file__", None))


def _refuse_strangers(
    wanted: Iterable[str], blocked: Iterable[Origin], known: Sequence[str]
) -> None:
    """Refuse to block what is not there: a mistyped name would block nothing.

    Raises:
        ConfigError: Names the first.
    """
    for name in sorted(set(wanted) - {origin.plugin for origin in blocked}):
        raise ConfigError(
            f"block: there is no plugin {name!r}{did_you_mean(name, known)}\n"
            f"  plugins: {', '.join(dict.fromkeys(known))}"
        )


def _offers(plugin: Any, origin: Origin) -> list[Entry]:
    """Everything one plugin registers, or an error; never half of it."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    _check_hooks(plugin, origin, manager)
    manager.register(plugin, origin.plugin)
    entries: dict[tuple[str, str], Entry] = {}
    for hook, kind in zip(HOOKS, KINDS, strict=True):

        def register(name: str, item: Any, *, _kind: str = kind, **options: Any) -> None:
            _add(entries, [Entry(_kind, name, _item(_kind, name, item, options, origin), origin)])

        failed = functools.partial(PluginError, origin.plugin)
        with boundary(failed, f"plugin {origin.plugin!r}: {hook} failed"), no_exit():
            getattr(manager.hook, hook)(register=register)
    return list(entries.values())


def _check_hooks(plugin: Any, origin: Origin, manager: pluggy.PluginManager) -> None:
    """Refuse hooks and hook parameters that do not exist, naming the plugin."""
    where = f"plugin {origin.plugin!r}"
    implemented = 0
    for name in dir(plugin):
        if manager.parse_hookimpl_opts(plugin, name) is None:
            continue
        implemented += 1
        if name not in HOOKS:
            hint = did_you_mean(name, HOOKS)
            raise PluginError(
                origin.plugin,
                f"{where}: unknown hook {name!r}{hint}\n  known hooks: {', '.join(HOOKS)}",
            )
        function = getattr(plugin, name)
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise PluginError(
                origin.plugin,
                f"{where}: {name} is asynchronous or a generator, which is never run to its end\n"
                "  write it as a plain function",
            )
        parameters = list(inspect.signature(function).parameters)
        unknown = [parameter for parameter in parameters if parameter not in ("self", "register")]
        if unknown:
            raise PluginError(
                origin.plugin,
                f"{where}: {name} takes an unknown parameter {unknown[0]!r}\n"
                f"  its one parameter is 'register'",
            )
        if "register" not in parameters:
            raise PluginError(
                origin.plugin,
                f"{where}: {name} has no parameter 'register', by which it would register anything",
            )
    if not implemented:
        raise PluginError(
            origin.plugin,
            f"{where}: no hook implementation found in {origin.file or plugin!r}\n"
            f"  mark a function such as register_rewards(register) with @trl_deepseek.hookimpl",
        )


def _item(kind: str, name: str, item: Any, options: dict[str, Any], origin: Origin) -> Any:
    """Check one registered item and bind the options it was registered with."""
    where = f"plugin {origin.plugin!r}: {SINGULAR[kind]} {name!r}"
    if not isinstance(name, str) or not name or name != name.strip() or " " in name:
        raise PluginError(origin.plugin, f"{where}: a name is a non-empty string without blanks")
    wrapper = WRAPPED.get(kind)
    expected: type | None = DATACLASSES.get(kind)
    allowed = [f.name for f in fields(wrapper)[2:]] if wrapper else []
    for option in options:
        if option not in allowed:
            raise PluginError(
                origin.plugin,
                f"{where}: unknown option {option!r}\n  options: {', '.join(allowed) or '(none)'}",
            )
    if expected is not None and not isinstance(item, expected):
        raise PluginError(
            origin.plugin,
            f"{where} is a {type(item).__name__}, not a {expected.__name__}",
        )
    if expected is None and not callable(item):
        raise PluginError(origin.plugin, f"{where} is a {type(item).__name__}, not a function")
    for option in {"columns", "requires"} & options.keys():
        names = options[option]
        if not isinstance(names, (str, list, tuple)):
            raise PluginError(origin.plugin, f"{where}: {option} is {names!r}, not names")
        options[option] = (names,) if isinstance(names, str) else tuple(names)
    try:
        return wrapper(name, item, **options) if wrapper else item
    except ValueError as error:
        raise PluginError(origin.plugin, f"{where}: {error}") from error


def _add(entries: dict[tuple[str, str], Entry], offered: Iterable[Entry]) -> None:
    for entry in offered:
        other = entries.get((entry.kind, entry.name))
        if other is not None:
            what = f"{SINGULAR[entry.kind]} {entry.name!r}"
            article = "an" if what.startswith("a") else "a"
            raise PluginError(
                entry.origin.plugin,
                f"two plugins register {article} {what}: "
                f"{_place(other.origin)} and {_place(entry.origin)}\n"
                f"  to use one of them, block the other: --block {other.origin.plugin} "
                f"or --block {entry.origin.plugin}",
            )
        entries[entry.kind, entry.name] = entry


def _place(origin: Origin) -> str:
    source = " ".join(filter(None, (origin.distribution, origin.version))) or origin.file
    return f"{origin.plugin!r} ({source})" if source else repr(origin.plugin)
