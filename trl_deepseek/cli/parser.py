"""An argument parser whose mistakes are one sentence, and which reads a YAML file of options.

``--config run.yaml`` stands for its keys as flags in front of the command line, so that flags win
over YAML and both go through the same checks.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from trl_deepseek.errors import ConfigError
from trl_deepseek.yaml_files import read_mapping


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing where no known name is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


class Parser(argparse.ArgumentParser):
    """Refuses with :class:`ConfigError` instead of printing the usage and exiting."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **kwargs
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting, as argparse would."""
        raise ConfigError(f"{message}\n  {self.prog} --help lists the options")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; the result also has ``given``, the set of options that were given.

        Raises:
            ConfigError: An option is unknown, malformed or missing, or the YAML file is.
        """
        args = self._with_config(list(args or []))
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flag = unknown[0]
            if not flag.startswith("-"):
                raise ConfigError(f"unexpected argument {flag!r}")
            name = flag.split("=")[0]
            raise ConfigError(f"unknown option {name}{did_you_mean(name, self._flags())}")
        words = {word.split("=")[0] for word in args}
        parsed.given = {
            action.dest for action in self._actions if words.intersection(action.option_strings)
        }
        return parsed

    def _flags(self) -> list[str]:
        flags = [flag for action in self._actions for flag in action.option_strings]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                flags += [flag for sub in action.choices.values() for flag in sub._flags()]
        return flags

    def _with_config(self, args: list[str]) -> list[str]:
        """Replace ``--config FILE`` by the flags that its keys stand for."""
        if not any(action.dest == "config" for action in self._actions):
            return args
        for place, word in enumerate(args):
            name, equals, value = word.partition("=")
            if name == "--config":
                if not equals and place + 1 == len(args):
                    self.error("argument --config: expected the path of a YAML file")
                rest = args[:place] + args[place + (1 if equals else 2) :]
                return self._read_config(value if equals else args[place + 1]) + rest
        return args

    def _read_config(self, path: str) -> list[str]:
        values = read_mapping(path, "config file", "option names to values")
        for variable, value in (values.pop("env", None) or {}).items():
            os.environ[str(variable)] = str(value)
        return self.as_flags(values, f"{path}: ")

    def as_flags(self, values: Mapping[str, Any], where: str = "") -> list[str]:
        """The words on a command line that mean what the options in ``values`` mean in YAML.

        Args:
            values: Options by name.
            where: What messages begin with.

        Raises:
            ConfigError: There is no such option, or its value has another shape.
        """
        # First of each: a boolean that is on by default has --no_NAME as well, after --NAME.
        actions = {action.dest: action for action in reversed(self._actions)}
        flags: list[str] = []
        for key, value in values.items():
            if key not in actions or key in ("config", "help"):
                hint = did_you_mean(str(key), actions)
                raise ConfigError(f"{where}unknown option {key!r}{hint}")
            flags += _as_flags(actions[key], value, f"{where}{key}")
        return flags


def _as_flags(action: argparse.Action, value: Any, where: str) -> list[str]:
    """The words on a command line that mean what ``key: value`` means in YAML."""
    flag = action.option_strings[0]
    if value is None:
        action.default = None
        return []
    if action.nargs == 0:  # a switch, such as --json
        if not isinstance(value, bool):
            raise ConfigError(f"{where} is on or off: write true or false, not {value!r}")
        return [flag] if value else []
    if isinstance(value, dict):
        return [flag, json.dumps(value)]
    if isinstance(value, list):
        if action.nargs not in ("+", "*"):
            raise ConfigError(f"{where} takes one value, not a list")
        return [flag, *(json.dumps(v) if isinstance(v, (dict, list)) else str(v) for v in value)]
    return [flag, str(value)]


def add_plugin_options(parser: argparse.ArgumentParser) -> None:
    """``--plugins`` and ``--block``, for commands that have no training config."""
    parser.add_argument(
        "--plugins",
        nargs="+",
        default=[],
        metavar="PLUGIN",
        help="Python files and modules to load as plugins, beside the installed ones.",
    )
    parser.add_argument(
        "--block", nargs="+", default=[], metavar="NAME", help="Names of plugins to leave out."
    )
