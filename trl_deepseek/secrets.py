"""Tokens, keys and passwords, kept out of what is saved and said.

A secret is known by the name of the option or variable that holds it (``hub_token``, ``api_key``,
``WANDB_API_KEY``), or stands between ``://`` and ``@`` in a URL. :class:`Secret` is text that can
be used as ever and is hidden where it is pickled or shown.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
# Not eos_token, pad_token or the like, which are tokens of text.
NAMES = re.compile(
    r"(?:^|_)(?:(?:hub|hf|access|auth|bearer|refresh|secret|session|api|github)_?token|api_?key"
    r"|access_?key|secret(?:_?key)?|password|passwd|credentials)$|^token$",
    re.IGNORECASE,
)
VARIABLES = re.compile(r"(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS)$", re.IGNORECASE)
URL = re.compile(r"(?P<scheme>\b[a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s@'\"]+@")
SHORTEST = 8  # characters; hiding less would hide ordinary words
# Options of a recipe's stage that its config file does not show; see :func:`handed_on`.
HANDED_ON = "TRL_DEEPSEEK_SECRETS"


class Secret(str):
    """Text that is hidden where it is pickled or shown, and itself in every other use."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(_hidden(str(self)))

    def __reduce_ex__(self, _: Any) -> Any:
        return str, (_hidden(str(self)),)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _: Any) -> Secret:
        return self


def is_secret(name: str, value: Any) -> bool:
    """Whether an option's value has to be hidden, or part of it."""
    return isinstance(value, str) and bool(
        (value and NAMES.search(name)) or URL.search(value) is not None
    )


def guard(holder: Any) -> None:
    """Turn each secret in an object's attributes, and in mappings there, into a :class:`Secret`."""
    _guard(vars(holder))


def _guard(values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, dict):
            _guard(value)
        elif is_secret(str(name), value):
            values[name] = Secret(value)


def hidden(values: Any, name: str = "") -> Any:
    """A copy of mappings and lists of options, with their secrets hidden, in JSON too."""
    if isinstance(values, Mapping):
        return {key: hidden(value, str(key)) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [hidden(value, name) for value in values]
    if is_secret(name, values):
        return _hidden(values)
    return _hidden_in_json(values) if isinstance(values, str) else values


def _hidden_in_json(text: str) -> str:
    """Options that the command line takes as one JSON object, such as ``model_init_kwargs``."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    without = hidden(found)
    return text if without == found else json.dumps(without)


def _hidden(value: str) -> str:
    return URL.sub(rf"\g<scheme>{HIDDEN}@", value) if URL.search(value) else HIDDEN


def redacted(text: str) -> str:
    """Text for people or a file, without passwords in URLs and the environment's own secrets."""
    text = URL.sub(rf"\g<scheme>{HIDDEN}@", text)
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and VARIABLES.search(name) and value in text:
            text = text.replace(value, HIDDEN)
    return text


def handed_on(options: Mapping[str, Any]) -> dict[str, str]:
    """The variable by which a process gets the secrets that its config file does not show."""
    found = {
        name: value for name, value in options.items() if hidden({name: value}) != {name: value}
    }
    return {HANDED_ON: json.dumps(found, default=str)} if found else {}


def taken_up(options: dict[str, Any]) -> dict[str, Any]:
    """A config file's options with what :func:`handed_on` had in the place of what is hidden."""
    found = json.loads(os.environ.pop(HANDED_ON, "{}"))
    options.update({name: found[name] for name in options if name in found})
    return options
