"""Modules in the process of the tests that stand for modules of the program's process.

The program under the names that tests import it by; and modules of Python's own that tests patch,
as with ``monkeypatch`` or ``unittest.mock.patch("time.sleep")``: what is set there is set in the
program's process, too. What is handed over are plain values and functions to call back.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trl_deepseek_plugins.rewards.code.inside.tester import Remote

# What a program reads and writes is shared in another way, see ``sharing``.
_SHARED = {("sys", "stdin"), ("sys", "stdout"), ("sys", "stderr"), ("os", "environ")}


class ProgramFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the program under the names of modules that the tests import it by."""

    def __init__(self, remote: Remote, names: list[str]) -> None:
        self.remote = remote
        self.names = names

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        """A module that is found here, for a name that stands for the program."""
        if fullname not in self.names:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        """A module whose attributes are the program's globals."""
        return _program_module(self.remote)(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing: the program runs in a process of its own."""


def _program_module(remote: Remote) -> type[types.ModuleType]:
    class Program(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            try:
                return remote.find(name)
            except NameError as error:
                raise AttributeError(name) from error

        def __setattr__(self, name: str, value: Any) -> None:
            if name.startswith("__"):
                super().__setattr__(name, value)
            else:
                setattr(remote.module("program"), name, value)

        def __delattr__(self, name: str) -> None:
            delattr(remote.module("program"), name)

    return Program


def mirror(remote: Remote, names: list[str]) -> None:
    """From now on, what is set in these modules is set in the program's process, too."""
    originals: dict[tuple[str, str], tuple[Any, Any]] = {}  # here, and there

    class Mirrored(types.ModuleType):
        def __setattr__(self, name: str, value: Any) -> None:
            before = self.__dict__.get(name)
            super().__setattr__(name, value)
            key = (self.__name__, name)
            if key in _SHARED or name.startswith("__") or isinstance(value, types.ModuleType):
                return  # a module that is imported becomes an attribute of its package
            there = remote.module(self.__name__)
            if key not in originals:
                originals[key] = (before, getattr(there, name, None))
            mine, theirs = originals[key]
            # A function of this process is never handed over in place of the program's own.
            setattr(there, name, theirs if value is mine else value)

    for name in names:
        importlib.import_module(name).__class__ = Mirrored
