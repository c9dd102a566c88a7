"""What a worker process needs to have the same reward function: modules, files, and a pickle.

A worker is a fresh interpreter, whatever multiprocessing's start method is, so a function travels
by its module and name. A plain file given as ``file.py:function`` or as a plugin travels as its
source, under the module name it has here: a worker started after the file was edited still runs
what the run began with.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import pickle
import runpy
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from trl_deepseek.errors import ConfigError
from trl_deepseek.sources import FILE_MODULE_PREFIX


@dataclass(frozen=True)
class Main:
    """The script that this process runs: as a file or as ``python -m module``."""

    file: str | None
    module: str | None
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Shipment:
    """One function on its way to a worker.

    Attributes:
        function: The pickled function.
        files: Module name to path and source of each plain file that was imported as a module.
        main: The script, where the function is defined in it.
    """

    function: bytes
    files: Mapping[str, tuple[str, str]]
    main: Main | None


def ship(function: Callable[..., Any], name: str) -> Shipment:
    """Pack ``function`` for workers.

    Raises:
        ConfigError: It cannot be found again by module and name.
    """
    try:
        packed = pickle.dumps(function)
    except Exception as error:  # pickle raises whatever an object's own methods raise
        raise ConfigError(
            f"reward {name!r} cannot run in a worker process: {error}\n"
            f"  define it at the top level of a module or file, not inside a function or a class"
        ) from error
    main = None
    if b"__main__" in packed:
        module = sys.modules["__main__"]
        spec = getattr(module, "__spec__", None)
        file = getattr(module, "__file__", None)
        main = Main(file, spec.name if spec else None, tuple(sys.argv))
        if main.module is None and (main.file is None or not Path(main.file).is_file()):
            raise ConfigError(
                f"reward {name!r} cannot run in a worker process: it is defined in an interactive "
                f"session\n  put it into a file and name it as file.py:function"
            )
    files = {}
    for module_name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if module_name.startswith(FILE_MODULE_PREFIX) and path and module_name.encode() in packed:
            files[module_name] = (path, Path(path).read_text(encoding="utf-8"))
    return Shipment(packed, files, main)


def unpack(shipment: Shipment) -> Callable[..., Any]:
    """The function, in a worker; raises whatever its modules raise when imported."""
    for name, (path, source) in shipment.files.items():
        if name not in sys.modules:
            _load_source(name, path, source)
    if shipment.main is not None and sys.modules["__main__"].__name__ != "__mp_main__":
        _load_main(shipment.main)
    function: Callable[..., Any] = pickle.loads(shipment.function)
    return function


class _Source(importlib.abc.InspectLoader):
    def __init__(self, path: str, source: str) -> None:
        self._path = path
        self._source = source

    def get_source(self, fullname: str) -> str:
        return self._source

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = self._path
        exec(compile(self._source, self._path, "exec"), module.__dict__)


def _load_source(name: str, path: str, source: str) -> None:
    loader = _Source(path, source)
    spec = importlib.machinery.ModuleSpec(name, loader, origin=path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _load_main(main: Main) -> None:
    """Run the script as multiprocessing does for its children: under another name than main."""
    sys.argv = list(main.arguments)
    if main.module is not None:
        names = runpy.run_module(main.module, run_name="__mp_main__", alter_sys=True)
    else:
        names = runpy.run_path(str(main.file), run_name="__mp_main__")
    module = ModuleType("__mp_main__")
    module.__dict__.update(names)
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
