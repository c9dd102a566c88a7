"""Import what a user names: a Python file, a module, or one function of either."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import sys
import traceback
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from trl_deepseek.errors import PluginError, boundary, describe

FILE_MODULE_PREFIX = "trl_deepseek_file_"  # of the names under which plain files are imported


@contextlib.contextmanager
def no_exit() -> Iterator[None]:
    """Around a plugin's import or hooks: ``os._exit`` raises there, which nothing else could catch.

    Not in processes that it forks, which end that way.
    """
    here, leave = os.getpid(), os._exit

    def exit_(status: int) -> NoReturn:
        if os.getpid() != here:
            leave(status)
        raise SystemExit(f"os._exit({status})")

    os._exit = exit_
    try:
        yield
    finally:
        os._exit = leave


def import_file(path: str | os.PathLike[str]) -> ModuleType:
    """Import the Python file at ``path`` as a module of its own.

    The same unchanged file gives the same module, so that its functions can be pickled; an edited
    file is imported anew.

    Raises:
        PluginError: The file is missing or does not run; the message has file, line and cause.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise PluginError(str(path), f"plugin file {str(path)!r} does not exist (looked at {file})")
    stamp = zlib.crc32(f"{file}:{file.stat().st_mtime_ns}".encode())
    name = f"{FILE_MODULE_PREFIX}{file.stem}_{stamp:08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(str(path), f"plugin file {str(path)!r} is not a Python file (.py)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with no_exit():
            spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # as in boundary, with the line of the file
        del sys.modules[name]
        raise PluginError(str(path), _cause(str(path), file, error)) from error
    return module


def import_module(name: str) -> ModuleType:
    """Import the module called ``name``, also from the current folder.

    Raises:
        PluginError: It is not found or does not import.
    """
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        failed = functools.partial(PluginError, name)
        with boundary(failed, f"plugin {name!r} does not load"), no_exit():
            return importlib.import_module(name)
    finally:
        if added:
            sys.path.remove(here)


def import_function(target: str) -> Any:
    """The function that ``file.py:function``, ``module:function`` or ``module.function`` names.

    Raises:
        PluginError: The file or module does not load, or has no such function.
    """
    place, colon, function = target.rpartition(":")
    if not colon:
        place, _, function = target.rpartition(".")
    module = import_file(place) if place.endswith(".py") else import_module(place)
    if not callable(getattr(module, function, None)):
        found = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise PluginError(
            place,
            f"{place} has no function {function!r}\n  it has: {', '.join(found) or '(none)'}",
        )
    return getattr(module, function)


def _cause(shown: str, file: Path, error: BaseException) -> str:
    """One message with the line of the user's file at which the error arose."""
    text = describe(error)
    if isinstance(error, SyntaxError):
        line = error.lineno
        text = f"{type(error).__name__}: {error.msg}: {(error.text or '').strip()}"
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        line = frames[-1].lineno if frames else None
    where = f"{shown}:{line}" if line else shown
    if isinstance(error, SystemExit):
        text += "\n  a plugin may not end the process"
    if isinstance(error, ModuleNotFoundError) and _beside(file, error.name):
        text += (
            f"\n  {error.name} lies beside the file, which is imported by itself: name both as "
            f"modules of that folder on PYTHONPATH\n  "
            f"PYTHONPATH={file.parent} and {file.stem} in place of {shown}"
        )
    return f"plugin file {where} does not load: {text}"


def _beside(file: Path, module: str | None) -> bool:
    """Whether the module that is missing is a neighbour of the file."""
    neighbour = file.parent / (module or "").partition(".")[0]
    return neighbour != file.parent and (
        neighbour.with_suffix(".py").is_file() or neighbour.is_dir()
    )
