from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

from trl_deepseek import load_registry

REGISTRY = load_registry()


def save(folder: Path, change: Callable[[dict[str, torch.Tensor]], None] | None = None) -> Path:
    """The tiny model and its tokenizer in a folder; ``change`` gets the tensors of its file."""
    model, tokenizer = REGISTRY.models["tiny-deepseek-llm"]()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if change is not None:
        file = folder / "model.safetensors"
        tensors = dict(load_file(file))
        change(tensors)
        save_file(tensors, file, {"format": "pt"})
    return folder


def not_finite(folder: Path) -> list[str]:
    """Every tensor of every file below ``folder`` that holds NaN or infinity."""
    found = []
    for file in folder.rglob("*.safetensors"):
        tensors = load_file(file)
        found += [f"{file}:{name}" for name, value in tensors.items() if not value.isfinite().all()]
    for file in folder.rglob("optimizer.pt"):
        for state in torch.load(file, weights_only=True)["state"].values():
            tensors = {n: v for n, v in state.items() if isinstance(v, torch.Tensor)}
            found += [f"{file}:{n}" for n, v in tensors.items() if not v.float().isfinite().all()]
    return found


@pytest.fixture(scope="session")
def saved_model() -> Callable[..., Path]:
    """:func:`save`."""
    return save


@pytest.fixture(scope="session")
def lost() -> Callable[[Path], list[str]]:
    """:func:`not_finite`."""
    return not_finite


@pytest.fixture(scope="session")
def poisoned_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model with one NaN in one weight."""

    def poison(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")

    return str(save(tmp_path_factory.mktemp("poisoned"), poison))


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Of a short run on the CPU that saves after each step."""
    return {
        "output_dir": str(tmp_path / "out"),
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "logging_steps": 1,
        "save_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    }


@pytest.fixture
def texts() -> Dataset:
    return Dataset.from_list([{"prompt": f"{i}+{i}=", "completion": str(2 * i)} for i in range(8)])
