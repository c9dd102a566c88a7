"""``trl-deepseek chat``: a conversation with a model in the terminal, or line by line in a pipe."""

from __future__ import annotations

import argparse
import contextlib
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
    parser.add_argument(
        "model", metavar="MODEL", help="Embedded model, folder of a model or adapter, or hub id."
    )
    add_plugin_options(parser)
    parser.set_defaults(tells=True)


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from trl_deepseek.cli.output import hide_progress_bars, status
    from trl_deepseek.jobs import chat
    from trl_deepseek.jobs.options import build_dataclasses

    hide_progress_bars()
    (options,) = build_dataclasses(args, [chat.ChatOptions])
    job = chat.check(args.model, options, load_registry(args.plugins, args.block))
    talks = sys.stdin.isatty()
    with status(f"loading {args.model}"):
        conversation = chat.Conversation(job)
    screen = Screen(Console(markup=False, highlight=False, emoji=False, soft_wrap=True))
    if talks:
        print("/reset begins anew, /exit ends, Ctrl-C stops an answer", file=sys.stderr)
    try:
        for line in _turns(talks):
            if line == "/exit":
                break
            if line == "/reset":
                conversation.reset()
            elif line.startswith("/") and len(line.split()) == 1:
                print(f"{line} is no command: /reset, /exit", file=sys.stderr)
            else:
                how = conversation.answer(line, screen.show)
                screen.end()
                if how:
                    print(f"({how})", file=sys.stderr)
    except KeyboardInterrupt as interrupt:
        screen.end()
        raise stopping.explained(interrupt, "the conversation is over") from None
    return 0


def _turns(talks: bool) -> Iterator[str]:
    """What the user says: a line each, without those that are empty, up to the end of the input."""
    if talks:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  what makes input() a line that can be edited
    while True:
        try:
            line = input("> ") if talks else sys.stdin.readline()
        except EOFError:  # Ctrl-D
            print()
            return
        if not line and not talks:
            return
        if line.strip():
            yield line.strip()


class Screen:
    """Shows an answer as it comes, its reasoning apart: dim, or between lines that say so."""

    def __init__(self, console: Any) -> None:
        self._console = console
        self._reasons: bool | None = None  # what is being shown; None before anything is
        self._last = "\n"  # character shown

    def show(self, reasons: bool, text: str) -> None:
        """Show a part of the answer; blanks where reasoning or answer begins are left out."""
        if reasons != self._reasons:
            text = text.lstrip()
            if not text:
                return
            self._turn_to(reasons)
        self._print(text.translate(CONTROLS))

    def end(self) -> None:
        """End the answer with a line of its own."""
        if self._last != "\n":
            self._print("\n")
        self._reasons = None

    def _turn_to(self, reasons: bool) -> None:
        reasoned, self._reasons = self._reasons, reasons
        if reasoned is not None and self._last != "\n":
            self._print("\n")
        if not self._console.is_terminal and (reasons or reasoned):
            self._print("[thinking]\n" if reasons else "[answer]\n")
        elif reasoned:
            self._print("\n")

    def _print(self, text: str) -> None:
        if text:
            self._last = text[-1]
            self._console.print(text, style="dim" if self._reasons else "", end="")
            self._console.file.flush()
