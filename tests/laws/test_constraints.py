"""The tested sets of libraries differ only in what they are there for."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# transformers, and what comes with it: its hub client has another HTTP library since 2.0
OLDER = {"transformers", "huggingface-hub", "tokenizers", "httpx", "httpcore"}
KEPT_BACK = {"fastapi", "numpy", "setuptools"}  # by vLLM 0.31 and mistral-common


def pins(repository: Path, name: str) -> dict[str, str]:
    lines = (repository / f"{name}.txt").read_text().splitlines()
    parts = (line.split("==") for line in lines if not line.startswith("#"))
    return {str(canonicalize_name(library)): version for library, version in parts}


def test_the_oldest_set_has_older_transformers_and_the_same_of_all_else(repository: Path) -> None:
    newest, other = pins(repository, "constraints"), pins(repository, "constraints-oldest")
    assert {k for k in {*newest, *other} if newest.get(k) != other.get(k)} == OLDER


def test_vllms_set_has_older_transformers_what_vllm_keeps_back_and_its_needs(
    repository: Path,
) -> None:
    newest, other = pins(repository, "constraints"), pins(repository, "constraints-vllm")
    changed = {name for name in newest if newest[name] != other.get(name)}
    assert changed == OLDER.intersection(newest) | KEPT_BACK


@pytest.mark.parametrize("name", ["constraints", "constraints-vllm", "constraints-oldest"])
def test_a_set_lies_within_the_bounds_of_the_package(repository: Path, name: str) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    pinned = pins(repository, name)
    for line in project["dependencies"]:
        wanted = Requirement(line)
        version = pinned[str(canonicalize_name(wanted.name))]
        assert wanted.specifier.contains(version), f"{name}: {version} is not {line}"
