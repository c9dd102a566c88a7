"""Which option a message is about, and in which line of which file that option was written.

Messages begin with what they are about (``max_length is -5: ...``, ``loss_kwargs: ...``) or quote
it (``data file 'rows.jsonl' does not exist``), so that no check needs to know where an option comes
from: whoever read it from a file puts the place in front.
"""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from trl_deepseek.errors import UnknownName, UserError

FIRST = re.compile(r"(?:argument )?(?:unknown option )?'?(?:--)?(\w+)")
# The option that names something of each kind of a registry's items.
OF_KIND = {
    "chat_templates": "chat_template",
    "losses": "loss_type",
    "policy_losses": "loss_type",
    "advantages": "advantage",
    "metrics": "metrics",
    "models": "model_name_or_path",
    "noises": "noise",
    "presets": "preset",
    "quantizations": "quantization",
    "rewards": "reward_funcs",
}


def option_of(error: UserError, given: Mapping[str, Any]) -> str | None:
    """The option that a message is about; None where that is none of those that were given.

    Args:
        error: Its message begins with an option's name, quotes a value, or names options further
            on, in this order.
        given: The options and their values.
    """
    if isinstance(error, UnknownName) and OF_KIND.get(error.kind) in given:
        return OF_KIND[error.kind]
    line = str(error.args[0]).partition("\n")[0]
    first = FIRST.match(line)
    if first is not None and first[1] in given:
        return first[1]
    for option, value in given.items():
        for item in value if isinstance(value, (list, tuple)) else [value]:
            # "file.py:function" is spoken of as "file.py"
            words = {item, item.partition(":")[0]} if isinstance(item, str) and item else ()
            if any(_speaks_of(line, word) for word in words):
                return option
    named = [option for option in given if re.search(rf"(?<![\w'])(--)?{option}\b", line)]
    return max(named, key=len, default=None)


def _speaks_of(line: str, word: str) -> bool:
    return f"{word!r}" in line or re.search(rf"(^| ){re.escape(word)}(:| )", line) is not None


@contextlib.contextmanager
def naming(given: Mapping[str, Any], places: Mapping[str, str]) -> Iterator[None]:
    """Errors inside are given the place of the option that they are about.

    Args:
        given: Options that were given, and their values.
        places: ``file:line`` of those that were read from a file.

    Raises:
        UserError: What was raised.
    """
    try:
        yield
    except UserError as error:
        if error.place is None:
            error.place = places.get(option_of(error, given) or "")
        raise


@contextlib.contextmanager
def naming_those_of(args: argparse.Namespace) -> Iterator[None]:
    """The same for the options that a parser of ours has read, and those that a preset sets."""
    try:
        yield
    except UserError as error:
        given = {name: getattr(args, name, None) for name in sorted(args.given)}
        with naming(given, args.places):
            raise error


@contextlib.contextmanager
def located(where: str, options: Mapping[str, Any], lines: Mapping[str, int]) -> Iterator[None]:
    """Errors inside are preceded by ``where``, with the line of the option that they are about.

    Args:
        where: ``file:line: stage 'name'``.
        options: Those of the stage.
        lines: Of the options that the file gives.

    Raises:
        UserError: What was raised, with the place.
    """
    try:
        yield
    except UserError as error:
        line = lines.get(option_of(error, options) or "")
        if line is not None:
            where = re.sub(r":\d+: stage", f":{line}: stage", where, count=1)
        error.place = where
        raise
