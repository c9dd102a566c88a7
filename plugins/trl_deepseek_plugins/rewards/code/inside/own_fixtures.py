"""The fixtures that pytest itself brings: ``tmp_path``, ``capsys`` and ``monkeypatch``.

They work in the process of the tests. How the program comes to see them: it has the same files
(those that a test writes into ``tmp_path``, too), and see ``sharing`` and ``patching``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pathlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, NamedTuple

_UNSET: Any = object()


def tmp_path() -> Iterator[pathlib.Path]:
    """An empty folder, removed at the end."""
    folder = tempfile.mkdtemp(prefix="test-", dir=os.getcwd())
    yield pathlib.Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


class Captured(NamedTuple):
    """What has been printed."""

    out: str
    err: str


class Capture:
    """Standard output and error of the tests and of the program."""

    def __init__(self) -> None:
        self.streams = (io.StringIO(), io.StringIO())

    def readouterr(self) -> Captured:
        """What was printed since the last call."""
        found = Captured(*(stream.getvalue() for stream in self.streams))
        for stream in self.streams:
            stream.seek(0)
            stream.truncate()
        return found

    @contextlib.contextmanager
    def disabled(self) -> Iterator[None]:
        """A block in which nothing is captured."""
        with contextlib.redirect_stdout(sys.__stdout__), contextlib.redirect_stderr(sys.__stderr__):
            yield


def capsys() -> Iterator[Capture]:
    """What the test and the program print."""
    capture = Capture()
    out, err = capture.streams
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield capture


class MonkeyPatch:
    """Attributes, items and variables that are set for one test."""

    def __init__(self) -> None:
        self.undoing: list[Callable[[], Any]] = []

    def setattr(self, target: Any, name: Any, value: Any = _UNSET, raising: bool = True) -> None:
        """Set an attribute; a target may be dotted text, which then ends with the name."""
        if isinstance(target, str):
            target, name, value = *_resolved(target), name
        before = getattr(target, name, _UNSET)
        if before is _UNSET and raising:
            raise AttributeError(f"{target!r} has no attribute {name!r}")
        setattr(target, name, value)
        if before is _UNSET:
            self.undoing.append(lambda: delattr(target, name))
        else:
            self.undoing.append(lambda: setattr(target, name, before))

    def delattr(self, target: Any, name: str = "", raising: bool = True) -> None:
        """Remove an attribute."""
        if isinstance(target, str):
            target, name = _resolved(target)
        before = getattr(target, name, _UNSET)
        if before is _UNSET:
            if raising:
                raise AttributeError(name)
            return
        delattr(target, name)
        self.undoing.append(lambda: setattr(target, name, before))

    def setitem(self, mapping: MutableMapping[Any, Any], name: Any, value: Any) -> None:
        """Set an item."""
        self._put_back(mapping, name)
        mapping[name] = value

    def delitem(self, mapping: MutableMapping[Any, Any], name: Any, raising: bool = True) -> None:
        """Remove an item."""
        if name in mapping or raising:
            self._put_back(mapping, name)
            del mapping[name]

    def setenv(self, name: str, value: str, prepend: str | None = None) -> None:
        """Set a variable of the environment."""
        if prepend and name in os.environ:
            value = f"{value}{prepend}{os.environ[name]}"
        self.setitem(os.environ, name, str(value))

    def delenv(self, name: str, raising: bool = True) -> None:
        """Remove a variable of the environment."""
        self.delitem(os.environ, name, raising)

    def chdir(self, path: Any) -> None:
        """Go to another folder."""
        before = os.getcwd()
        os.chdir(path)
        self.undoing.append(lambda: os.chdir(before))

    def undo(self) -> None:
        """Take everything back, the last first."""
        while self.undoing:
            self.undoing.pop()()

    @contextlib.contextmanager
    def context(self) -> Iterator[MonkeyPatch]:
        """Another one, taken back at the end of the block."""
        inner = MonkeyPatch()
        try:
            yield inner
        finally:
            inner.undo()

    def _put_back(self, mapping: MutableMapping[Any, Any], name: Any) -> None:
        if name in mapping:
            before = mapping[name]
            self.undoing.append(lambda: mapping.__setitem__(name, before))
        else:
            self.undoing.append(lambda: mapping.pop(name, None))


def monkeypatch() -> Iterator[MonkeyPatch]:
    """What sets things for one test."""
    patches = MonkeyPatch()
    yield patches
    patches.undo()


def _resolved(dotted: str) -> tuple[Any, str]:
    """The object and the name of the attribute that ``a.b.c`` means."""
    path, _, name = dotted.rpartition(".")
    found: Any = importlib.import_module(path.partition(".")[0])
    for part in path.split(".")[1:]:
        found = getattr(found, part)
    return found, name
