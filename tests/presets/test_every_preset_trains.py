"""Each preset trains the tiny model for a step, with nothing changed but its size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek import load_registry
from trl_deepseek.cli.main import main

REGISTRY = load_registry()
# What a laptop cannot hold, by command.
SMALL: dict[str, list[str]] = {
    "sft": ["--gradient_accumulation_steps", "1"],
    "preference": ["--gradient_accumulation_steps", "1"],
    "grpo": [
        *("--num_generations", "2", "--max_completion_length", "4", "--reward_funcs"),
        *("exact_match", "--per_device_train_batch_size", "2"),
        *("--gradient_accumulation_steps", "1"),
    ],
}


ASK = [{"role": "user", "content": "1+1"}]
RIGHT, WRONG = ([{"role": "assistant", "content": said}] for said in ("2", "3"))
ROWS = {
    "sft": {"prompt": ASK, "completion": RIGHT},
    "preference": {"prompt": ASK, "chosen": RIGHT, "rejected": WRONG},
    "grpo": {"prompt": ASK, "solution": "2"},
}


@pytest.mark.matrix
@pytest.mark.parametrize("name", REGISTRY.presets)
def test_a_preset_trains(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset: Any = REGISTRY.presets[name]
    rows = tmp_path / "rows.jsonl"
    rows.write_text((json.dumps(ROWS[preset.command]) + "\n") * 4)
    words = ["--preset", name, "--dataset_name", str(rows), "--output_dir", f"{tmp_path}/out"]
    words += ["--max_steps", "1", "--report_to", "none", "--save_strategy", "no"]
    words += SMALL[preset.command]
    if "generation_batch_size" in preset.values:
        words += ["--generation_batch_size", "2"]
    assert main([preset.command, "--model_name_or_path", "tiny-deepseek-llm", *words]) == 0
    assert f"preset {name}: " in capsys.readouterr().err
