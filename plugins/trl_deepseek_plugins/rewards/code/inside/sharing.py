"""What tests change about the process of the program: its streams, environment and folder.

A test captures what the program prints, gives it an input or sets a variable, all in a process of
its own. So, where a test does such things, what the program prints is handed on to the streams of
the tests, what it reads is asked of theirs, and their environment is the program's.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trl_deepseek_plugins.rewards.code.inside.program import Server

# By these numbers the program calls what the tests' process reads with.
INPUT, LINE, ALL = range(3)


def reads() -> list[Callable[..., Any]]:
    """In the process of the tests: what the program reads with, in the order of the numbers."""
    return [
        lambda *prompt: builtins.input(*prompt),
        lambda size: sys.stdin.readline(size),
        lambda size: sys.stdin.read(size),
    ]


def wanted(source: str) -> list[str]:
    """What a text of tests has to do with: output, input, environment."""
    signs = {
        "output": ("capsys", "stdout", "stderr"),
        "input": ("stdin", "input"),
        "environment": ("environ", "setenv", "delenv", "chdir"),
    }
    return [what for what, names in signs.items() if any(name in source for name in names)]


def share(server: Server, what: list[str], environment: dict[str, str], folder: str) -> None:
    """In the process of the program: take over what the tests have."""
    if "output" in what:
        sys.stdout, sys.stderr = _Output(server, "stdout"), _Output(server, "stderr")
    if "input" in what:
        builtins.input = lambda prompt="", /: server.back(INPUT)(str(prompt))
        sys.stdin = _Input(server.back(LINE), server.back(ALL))
    if "environment" in what:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)


class _Output(io.TextIOBase):
    def __init__(self, server: Server, name: str) -> None:
        self.server = server
        self.name = name

    def write(self, text: str, /) -> int:
        self.server.said.append([self.name, str.__str__(text)])
        return len(text)

    def writable(self) -> bool:
        return True


class _Input(io.TextIOBase):
    def __init__(self, line: Callable[[int], str], everything: Callable[[int], str]) -> None:
        self.line = line
        self.everything = everything

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        return self.line(size)

    def read(self, size: int | None = -1, /) -> str:
        return self.everything(-1 if size is None else size)

    def readable(self) -> bool:
        return True
