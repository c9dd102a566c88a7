"""What the tests of broken runs share: the smallest commands, and faults at a named step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers.trainer_callback import DefaultFlowCallback

COMMON = {
    "model_name_or_path": "tiny-deepseek-llm",
    "chat_template": "deepseek-v3",
    "report_to": "none",
    "output_dir": "out",
    "max_steps": 4,
    "per_device_train_batch_size": 2,
    "save_steps": 1,
}
QUESTION, ANSWER = {"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}
WRONG = {**ANSWER, "content": "3"}
PAIR = {"prompt": [QUESTION], "chosen": [ANSWER], "rejected": [WRONG]}
ROWS: dict[str, list[Any]] = {
    "sft": [{"messages": [QUESTION, ANSWER]}],
    "dpo": [PAIR],
    "reward": [PAIR],
    "kto": [
        {"prompt": [QUESTION], "completion": [ANSWER], "label": True},
        {"prompt": [QUESTION], "completion": [WRONG], "label": False},
    ],
    "grpo": [{"prompt": [QUESTION], "solution": "2"}],
}
GRPO = {
    "reward_funcs": "exact_match",
    "max_completion_length": 4,
    "num_generations": 2,
    "steps_per_generation": 1,
}


def command_line(command: str, *switches: str, **options: Any) -> list[str]:
    """A command line; options that are None are left out."""
    chosen = {
        **COMMON,
        "dataset_name": f"{command}.jsonl",
        **(GRPO if command == "grpo" else {}),
        **options,
    }
    flags = [f"--{name}={value}" for name, value in chosen.items() if value is not None]
    return [command, *flags, *switches]


@pytest.fixture
def words() -> Callable[..., list[str]]:
    return command_line


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for command, rows in ROWS.items():
        lines = [json.dumps(row) + "\n" for row in rows]
        (tmp_path / f"{command}.jsonl").write_text("".join(lines * 4))
    return tmp_path


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Have something happen while the step of a number runs, in whatever trainer."""
    begin = DefaultFlowCallback.on_step_begin

    def arrange(number: int, happening: Callable[[], Any]) -> None:
        to_happen = [happening]  # once, also where the step is done again

        def on_step_begin(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            if state.global_step == number - 1 and to_happen:
                to_happen.pop()()
            return begin(self, args, state, control, **kwargs)

        monkeypatch.setattr(DefaultFlowCallback, "on_step_begin", on_step_begin)

    return arrange
