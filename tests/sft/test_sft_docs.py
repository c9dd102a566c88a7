from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from trl_deepseek import load_registry


@pytest.fixture
def blocks(repository: Path) -> list[str]:
    text = (repository / "docs" / "sft.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_first_example_trains(
    blocks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(blocks[0].replace("max_steps=2", "max_steps=2, use_cpu=True"), names)
    assert names["trainer"].state.global_step == 2
    assert names["trainer"].embedding_noise.firings == 2


def test_the_noise_of_ones_own_has_the_norm_it_promises(blocks: list[str], tmp_path: Path) -> None:
    file = tmp_path / "sphere.py"
    file.write_text(blocks[1])
    noise = load_registry([str(file)]).noises["sphere"]
    lengths = torch.tensor([[4, 4, 9]])
    added = noise(torch.zeros(1, 3, 16), lengths, alpha=6.0)
    assert added.norm(dim=-1).flatten().tolist() == pytest.approx([3.0, 3.0, 2.0])
