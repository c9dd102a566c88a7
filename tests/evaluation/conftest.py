from __future__ import annotations

from typing import Any

import pytest

from trl_deepseek import Registry, generation, load_registry


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_registry()


@pytest.fixture(scope="session")
def model(registry: Registry) -> tuple[Any, Any]:
    """A tiny model and its tokenizer; nothing trains it."""
    return generation.load("tiny-deepseek-llm", registry)


@pytest.fixture(scope="session")
def other(registry: Registry) -> tuple[Any, Any]:
    return generation.load("tiny-deepseek-llm", registry, seed=1)
