"""Files of settings: one YAML mapping each, read so that it says what its author sees.

Plain YAML 1.1 reads ``1e-6`` as text, ``12:30`` as 750 and lets the last of two equal keys win.
Here numbers are those of YAML 1.2 and keep their spelling, dates are text, every mapping knows the
lines of its keys, and what would be lost or could not be a setting is refused with file and line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from trl_deepseek.errors import ConfigError

INTEGER = re.compile(r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+")
FLOAT = re.compile(
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)
REPLACED = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
SETTINGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")
}


class Integer(int):
    """An integer that is printed as it was written, so that ``run_name: 007`` stays 007."""

    text: str

    def __str__(self) -> str:
        return self.text


class Float(float):
    """A number that is printed as it was written: ``model_revision: 12e4567`` is no infinity."""

    text: str

    def __str__(self) -> str:
        return self.text


class Settings(dict[str, Any]):
    """A mapping that knows where its keys stand and how its truth values were written.

    Attributes:
        lines: The line of each key, from 1.
        spelled: The words, such as ``no`` and ``off``, of values that YAML reads as true or false;
            a list of them where the value is a list of such.
    """

    lines: dict[str, int]
    spelled: dict[str, Any]

    def __init__(self, *layers: Mapping[str, Any]) -> None:
        super().__init__()
        self.lines, self.spelled = {}, {}
        for layer in layers:  # a later one wins
            self.update(layer)
            for key in layer:
                for own, theirs in ((self.lines, "lines"), (self.spelled, "spelled")):
                    own.pop(key, None)
                    if key in getattr(layer, theirs, {}):
                        own[key] = getattr(layer, theirs)[key]


class _Loader(yaml.SafeLoader):
    """Safe YAML with the numbers of version 1.2; every loss is an error with a line."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        node = super().compose_node(parent, index)
        if node is not None and node.tag not in SETTINGS:
            raise _error(node, f"{node.tag} is no setting")
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            name, line = key.value, key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.tag != MERGE:
                if name in lines:
                    raise _error(key, f"{name!r} is there twice, in lines {lines[name]} and {line}")
                lines[name] = line
        super().flatten_mapping(node)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        # What is still being built inside of itself has no end.
        if node in self.recursive_objects:
            raise _error(node, "an alias stands for something that contains it")
        return super().construct_object(node, deep=True)


MERGE = "tag:yaml.org,2002:merge"
SETTINGS.add(MERGE)
BOOLEAN = "tag:yaml.org,2002:bool"


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Iterator[Settings]:
    settings = Settings()
    yield settings
    settings.update(dict[Any, Any](loader.construct_mapping(node)))
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        name = loader.construct_object(key)
        settings.lines[name] = key.start_mark.line + 1
        items = value.value if isinstance(value, yaml.SequenceNode) else [value]
        words = [each.value for each in items if each.tag == BOOLEAN]
        if words and len(words) == len(items):
            settings.spelled[name] = words if isinstance(value, yaml.SequenceNode) else words[0]


def _error(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, node.start_mark)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> Integer:
    base = {"0x": 16, "0o": 8}.get(node.value[:2], 10)
    number = Integer(node.value.replace("_", ""), base)
    number.text = node.value if base == 10 else int.__repr__(number)
    return number


def _float(loader: _Loader, node: yaml.ScalarNode) -> Float:
    text = node.value.replace("_", "")
    number = Float(re.sub(r"\.(?=inf|nan)", "", text, flags=re.IGNORECASE))
    number.text = node.value if any(digit.isdigit() for digit in text) else float.__repr__(number)
    return number


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in REPLACED]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    REPLACED[0], re.compile(f"({INTEGER.pattern})$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(REPLACED[1], re.compile(f"({FLOAT.pattern})$"), list("-+.0123456789"))
_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor(REPLACED[0], _integer)
_Loader.add_constructor(REPLACED[1], _float)


class _Dumper(yaml.SafeDumper):
    """Writes numbers and truth values as they were written."""


def _represented(dumper: _Dumper, settings: Settings) -> yaml.MappingNode:
    node = dumper.represent_dict(settings)
    for key, value in node.value:
        word = settings.spelled.get(key.value)
        if isinstance(word, str) and value.tag == BOOLEAN:
            value.value = word
    return node


_Dumper.add_representer(Settings, _represented)
_Dumper.add_representer(Integer, lambda dumper, n: dumper.represent_scalar(REPLACED[0], str(n)))
_Dumper.add_representer(Float, lambda dumper, n: dumper.represent_scalar(REPLACED[1], str(n)))


def write_mapping(path: Path, values: Mapping[str, Any]) -> None:
    """Write settings so that :func:`read_mapping` reads the same ones."""
    text = yaml.dump(Settings(values), Dumper=_Dumper, sort_keys=False)
    path.write_text(text, encoding="utf-8")


def read_mapping(path: str, what: str, of: str) -> Settings:
    """The mapping in a YAML file.

    Args:
        path: Of the file.
        what: What messages call it, such as ``config file``.
        of: What it maps, for messages.

    Raises:
        ConfigError: It cannot be read, is not valid YAML, has a key twice or an alias that contains
            itself, or is no mapping.
    """
    text = ""
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = yaml.load(text, _Loader)
    except OSError as error:
        raise ConfigError(f"{what} {path!r} cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        place = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else path
        hint = "\n  indent with blanks, not tabs" if "'\\t'" in str(error.problem) else ""
        raise ConfigError(f"{place}: not valid YAML: {error.problem}{hint}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        code = f"U+{ord(text[error.position]):04X}"
        raise ConfigError(f"{path}:{line}: not valid YAML: the character {code}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{what} {path!r} is not valid YAML: {error}") from error
    if not isinstance(values, Settings):
        raise ConfigError(f"{what} {path!r} must be a mapping of {of}")
    return values
