"""``--dataset_streaming`` in every training command: the same rows, read as they are needed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.cli.main import main

QUESTION = [{"role": "user", "content": "1+1="}]
RIGHT = [{"role": "assistant", "content": "2"}]
WRONG = [{"role": "assistant", "content": "3"}]
COMMANDS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "sft": ([], {"messages": QUESTION + RIGHT}),
    "preference": (
        ["--loss_type", "dpo"],
        {"prompt": QUESTION, "chosen": RIGHT, "rejected": WRONG},
    ),
    "preference, singles": (
        ["--loss_type", "kto"],
        {"prompt": QUESTION, "chosen": RIGHT, "rejected": WRONG},
    ),
    "reward": ([], {"chosen": QUESTION + RIGHT, "rejected": QUESTION + WRONG}),
    "grpo": (
        ["--reward_funcs", "exact_match", "--max_completion_length", "4"],
        {"prompt": QUESTION, "solution": "2"},
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_stream_trains(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options, row = COMMANDS[name]
    Path("rows.jsonl").write_text(f"{json.dumps(row)}\n" * 8)
    command = [name.split(",")[0], "--dataset_name", "rows.jsonl", "--dataset_streaming", *options]
    model = ["--model_name_or_path", "tiny-deepseek-llm", "--chat_template", "deepseek-v3"]
    run = ["--max_steps", "1", "--report_to", "none", "--output_dir", "out", "--json"]
    assert main([*command, *model, *run]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert metrics["train_loss"] == metrics["train_loss"]  # not NaN
    assert Path("out", "model.safetensors").is_file()
