"""Import what a user names: a Python file, a module, or one function of either."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any

from trl_deepseek.errors import PluginError

FILE_MODULE_PREFIX = "trl_deepseek_file_"  # of the names under which plain files are imported


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
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's file raises is reported alike
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
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # as in import_file
        raise PluginError(
            name, f"plugin {name!r} does not load: {type(error).__name__}: {error}"
        ) from error
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
    if isinstance(error, SyntaxError):
        line, text = error.lineno, f"{error.msg}: {(error.text or '').strip()}"
    else:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        line, text = (frames[-1].lineno if frames else None), str(error)
    where = f"{shown}:{line}" if line else shown
    return f"plugin file {where} does not load: {type(error).__name__}: {text}"
