from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from trl_deepseek import DPOConfig, load_registry

REGISTRY = load_registry()


@pytest.fixture
def tiny() -> Callable[..., tuple[Any, Any]]:
    """Builds an embedded model and its tokenizer."""

    def build(name: str = "tiny-deepseek-llm", seed: int = 0) -> tuple[Any, Any]:
        return REGISTRY.models[name](seed=seed)

    return build


@pytest.fixture
def sums() -> Dataset:
    """Pairs of plain texts; completions of several lengths."""
    rows = [
        {
            "prompt": f"{i}+{i}=",
            "chosen": f"{2 * i}" + "!" * (i % 3),
            "rejected": f"{i} " * (1 + i % 4),
        }
        for i in range(11, 43)
    ]
    return Dataset.from_list(rows)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Any]:
    """Builds a config for a short run on the CPU that writes nothing."""

    def build(kind: type = DPOConfig, **options: Any) -> Any:
        defaults: dict[str, Any] = {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 4,
            "max_steps": 2,
            "logging_steps": 1,
            "report_to": [],
            "save_strategy": "no",
            "bf16": False,
            "use_cpu": True,
            "gradient_checkpointing": False,
            "disable_tqdm": True,
        }
        return kind(**{**defaults, **options})

    return build
