"""Rules that hold for everything in the tree, present and future."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import trl_deepseek
from trl_deepseek import hookspecs, load_registry
from trl_deepseek.registry import HOOKS

ROOT = Path(__file__).parents[2]
CORE = sorted((ROOT / "trl_deepseek").rglob("*.py"))
PLUGINS = ROOT / "plugins" / "trl_deepseek_plugins"
PLUGIN_FILES = sorted(PLUGINS.rglob("*.py"))


def imported_modules(file: Path) -> set[str]:
    """Every module that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def entry_points() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    points: dict[str, str] = project["entry-points"]["trl_deepseek"]
    return points


def test_every_plugin_module_has_an_entry_point_and_every_entry_point_a_module() -> None:
    modules = {
        ".".join(file.relative_to(PLUGINS.parent).with_suffix("").parts).removesuffix(".__init__")
        for file in PLUGIN_FILES
        if "@hookimpl" in file.read_text(encoding="utf-8")
    }
    assert set(entry_points().values()) == modules


def test_every_first_party_plugin_loads() -> None:
    assert load_registry().broken == ()


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_says_what_it_is_for_and_documents_its_arguments(hook: str) -> None:
    function = getattr(hookspecs, hook)
    text = inspect.getdoc(function) or ""
    assert text.splitlines()[0].endswith(".")
    for parameter in inspect.signature(function).parameters:
        assert f"{parameter}: " in text.partition("Args:")[2]


@pytest.mark.parametrize("file", CORE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_core_imports_no_plugin(file: Path) -> None:
    assert not [name for name in imported_modules(file) if name.startswith("trl_deepseek_plugins")]


@pytest.mark.parametrize("file", PLUGIN_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_plugin_imports_another(file: Path) -> None:
    points = set(entry_points().values())
    name = ".".join(file.relative_to(PLUGINS.parent).with_suffix("").parts)
    own = next((point for point in points if f"{name}.".startswith(f"{point}.")), name)
    others = [
        name
        for name in imported_modules(file)
        if name.startswith("trl_deepseek_plugins.") and not name.startswith(own)
    ]
    assert not others


@pytest.mark.parametrize(
    "file",
    [*CORE, *PLUGIN_FILES],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_file_can_be_read_in_one_sitting(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("name", trl_deepseek.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(trl_deepseek, name) is not None


def loaded_after(statement: str) -> set[str]:
    """Top-level packages in ``sys.modules`` once a fresh interpreter has run ``statement``."""
    code = f"{statement}; import sys; print(*{{m.split('.')[0] for m in sys.modules}})"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    return set(output.split("\n")[-2].split())


HEAVY = {"torch", "transformers", "trl", "peft", "datasets", "numpy"}


def test_importing_the_package_or_loading_plugins_imports_nothing_heavy() -> None:
    assert not loaded_after("import trl_deepseek") & HEAVY
    assert not loaded_after("import trl_deepseek; trl_deepseek.load_registry()") & HEAVY


def test_help_and_plugins_import_nothing_heavy() -> None:
    for argv in (["--help"], ["plugins"], ["plugins", "--json"]):
        assert not loaded_after(f"from trl_deepseek.cli.main import main; main({argv})") & HEAVY
