"""What a stage of a recipe is made from: its options, files, plugins and the stages that it uses.

It is noted when the stage begins and compared when the recipe is run again, so that what has
changed since is known by name, and nothing else is made anew.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trl_deepseek import secrets
from trl_deepseek.jobs import references
from trl_deepseek.jobs.recipe import Stage
from trl_deepseek.registry import Registry
from trl_deepseek.trainers.provenance import digest

# Options that only say what is told of a run, by the start of their names.
TOLD = ("logging", "log_", "report_to", "run_name", "project", "disable_tqdm", "trackio_")
# Options whose words are paths even where they look like no path; "train" may be a split's name.
PATHS = (*references.MODELS, *references.ROWS, "datasets")
# Options in which a function or metric may be named by its module.
FUNCTIONS = ("reward_funcs", "metrics", "tools", "environment_factory")
SHOWN = 60  # characters of a value in a message


def of(
    stage: Stage,
    options: argparse.Namespace,
    registry: Registry,
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What the stage is made from, as JSON gives it back.

    Args:
        stage: The stage.
        options: Its options as its command parses them, with their defaults.
        registry: Where the plugins of registered names are found.
        before: What it was made from before; a file of the same size and date is not read again.
    """
    named = [each for each in _words(vars(options)) if each[0] not in ("given", "places")]
    known = (before or {}).get("files") or {}
    return {
        "options": plain(stage.written),
        "files": {str(path): _file(path, known.get(str(path))) for path in _files(stage, named)},
        "plugins": _plugins({word for _, word in named}, registry),
    }


def plain(options: Any) -> Any:
    """As it is read back from JSON: dates and the like as text, and secrets hidden."""
    return json.loads(json.dumps(secrets.hidden(options), default=str))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What is not as it was, one clause each.

    A file or plugin that only one of the two has is not compared: where another is named, an option
    has changed, and what is gone cannot be used anew.
    """
    was, has = (
        {key: value for key, value in each["options"].items() if not key.startswith(TOLD)}
        for each in (before, now)
    )
    changed = [
        f"{name} was {_shown(was.get(name))}, now {_shown(has.get(name))}"
        for name in {**was, **has}
        if was.get(name) != has.get(name)
    ]
    for kind, what in (("files", "{} has changed"), ("plugins", "plugin {!r} has changed")):
        for name, value in (before.get(kind) or {}).items():
            other = now[kind].get(name, value)
            if _content(value) != _content(other):
                changed.append(what.format(name))
    return changed


def _shown(value: Any) -> str:
    if value is None:
        return "not given"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def _content(noted: Any) -> Any:
    return noted[-1] if isinstance(noted, list) else noted


def _words(value: Any, option: str = "") -> Iterator[tuple[str, str]]:
    """Every text in some options, with the name of the option that it stands in."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _words(inner, option or str(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _words(inner, option)
    elif isinstance(value, str):
        yield option, value
        if value.startswith("{"):  # a mapping on a command line
            with contextlib.suppress(ValueError):
                yield from _words(json.loads(value), option)


def _files(stage: Stage, named: list[tuple[str, str]]) -> list[Path]:
    """The files and folders that options name, but for those of the recipe itself."""
    own = {str(Path(each.output_dir)) for each in (stage, *stage.uses.values())}
    found: dict[Path, None] = {}
    for option, word in named:
        if option in ("plugins", "block", "config", stage.kind.writes):
            continue  # a plugin is used where a name of it is
        for path in _paths(option, word):
            if path.exists() and not {str(path), *map(str, path.parents)} & own:
                found[path] = None
    return list(found)


def _paths(option: str, word: str) -> Iterator[Path]:
    word = word.removeprefix("model:")
    if len(word) > 1000 or "\n" in word or "\0" in word or word in ("", ".", "..", "/"):
        return
    place, colon, _ = word.rpartition(":")
    for text in (word, place) if colon and place else (word,):
        if option in PATHS or "." in text or "/" in text:
            yield Path(text).expanduser()
    if option in FUNCTIONS and not Path(word).exists():
        file = _module_file(place if colon else word.rpartition(".")[0])
        if file is not None:
            yield file


def _module_file(module: str) -> Path | None:
    if not module or not all(part.isidentifier() for part in module.split(".")):
        return None
    here = Path(*module.split(".")).with_suffix(".py")
    if here.is_file():
        return here
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def _file(path: Path, noted: Any) -> list[Any]:
    """Size, date and digest of a file, or of all files in a folder."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    stats = [(each, each.stat()) for each in files]
    size = sum(stat.st_size for _, stat in stats)
    date = max((stat.st_mtime_ns for _, stat in stats), default=0)
    if isinstance(noted, list) and noted[:2] == [size, date]:
        return noted
    parts = [f"{each.relative_to(path)} {_digest(each)}" for each in files]
    return [size, date, digest("\n".join(parts))]


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _plugins(words: set[str], registry: Registry) -> dict[str, str]:
    """The source of each plugin of which a name is used."""
    found = {}
    for entry in registry.entries():
        origin = entry.origin
        if entry.name in words and origin.file is not None and origin.plugin not in found:
            file = Path(origin.file)
            whole = sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
            sources = [_digest(each) for each in whole if each.is_file()]
            found[origin.plugin] = digest("\n".join(sources))
    return found
