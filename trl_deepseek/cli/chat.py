"""``trl-deepseek chat``: a conversation with a model in the terminal, or line by line in a pipe."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from trl_deepseek import stopping
from trl_deepseek.cli.parser import add_plugin_options
from trl_deepseek.plugin_loading import load_registry

# What a terminal would take for commands, all but the end of a line and the tabulator.
CONTROLS = {code: "�" for code in (*range(32), 127, *range(128, 160)) if chr(code) not in "\n\t"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from trl_deepseek.jobs.chat import ChatOptions
    from trl_deepseek.jobs.options import add_dataclasses

    add_dataclasses(parser, [ChatOptions])
    (named,) = (each for each in parser._actions if each.dest == "model_name_or_path")
    parser._remove_action(named)
    for flag in named.option_strings:
        del parser._option_string_actions[flag]
    parser.add_argument(
        "model_name_or_path",
        metavar="MODEL",
        help="Embedded model, folder of a model or adapter, or hub id.",
    )
    add_plugin_options(parser)
    parser.set_defaults(tells=True)
