"""Whatever is not finite, wherever it comes from: one message, exit 1 or 2, nothing of it saved.

Each cell is a whole command; faults inside the model are put there by a hook on its last norm, in
the training pass of one step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trl_deepseek import lm_head
from trl_deepseek.cli.main import main
from trl_deepseek.jobs.job import Job

Fault = Callable[[torch.Tensor], torch.Tensor]

COMMANDS: dict[str, list[str]] = {
    "sft": [],
    "dpo": [],
    "kto": [],
    "reward": [],
    "grpo": ["--reward_funcs", "PLUGIN:length", "--num_generations", "2"],
}
HELD: dict[str, list[str]] = {"full": [], "lora": ["--use_peft"], "qlora": ["--qlora"]}
FAULTS = ("loss", "gradient", "last step", "base weight", "column", "option")
# A few of each row and column for every run of the tests.
USUAL = {
    ("loss", "sft", "full"),
    ("loss", "grpo", "lora"),
    ("gradient", "kto", "lora"),
    ("last step", "dpo", "full"),
    ("base weight", "sft", "qlora"),
    ("base weight", "reward", "full"),
    ("column", "reward", "full"),
    ("option", "dpo", "full"),
}
# Of these commands no column of numbers is trained on.
WITHOUT_NUMBERS = ("sft", "dpo")
LENGTH = "def length(completion, **_):\n    return float(len(completion))\n"


def nan(hidden: torch.Tensor) -> torch.Tensor:
    return hidden * math.nan


def nan_backwards(hidden: torch.Tensor) -> torch.Tensor:
    """The same values; the gradient of sqrt at 0 is infinite, times 0."""
    return hidden + (hidden * 0).abs().sqrt()


def cells() -> list[Any]:
    return [
        pytest.param(
            *cell,
            id="-".join(cell).replace(" ", "_"),
            marks=() if cell in USUAL else pytest.mark.matrix,
        )
        for fault in FAULTS
        for command in COMMANDS
        for held in HELD
        if (cell := (fault, command, held))
        and not (fault == "column" and command in WITHOUT_NUMBERS)
    ]


def rows_for(command: str, number_in_row_1: float) -> str:
    """Six rows with a column of numbers; as JSON, one a line."""
    rows: list[dict[str, Any]] = []
    for place in range(6):
        number = number_in_row_1 if place == 1 else 1.0
        prompt, answer = f"{place}+1=", str(place + 1)
        pair = {"prompt": prompt, "chosen": answer, "rejected": "no"}
        by_command: dict[str, dict[str, Any]] = {
            "sft": {"prompt": prompt, "completion": answer},
            "dpo": pair,
            "kto": {"prompt": prompt, "completion": answer, "label": number},
            "reward": {**pair, "margin": number},
            "grpo": {"prompt": prompt, "target": number},
        }
        rows.append(by_command[command])
    return "\n".join(map(json.dumps, rows))


@pytest.mark.parametrize(("fault", "command", "held"), cells())
def test_nothing_that_is_not_finite_is_saved(
    fault: str,
    command: str,
    held: str,
    poisoned_base: str,
    lost: Callable[[Path], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plugin = tmp_path / "rewards.py"
    plugin.write_text(LENGTH.replace("**_", "target, **_"))
    out = tmp_path / "out"
    model = poisoned_base if fault == "base weight" else "tiny-deepseek-llm"
    rows = tmp_path / "rows.jsonl"
    rows.write_text(rows_for(command, math.nan if fault == "column" else 0.0))
    argv = [
        *(command, "--model_name_or_path", model, "--dataset_name", str(rows)),
        *("--chat_template", "deepseek-v3", "--output_dir", str(out), "--report_to", "none"),
        *("--max_steps", "2", "--save_steps", "1", "--logging_steps", "1", "--use_cpu", "true"),
        *("--per_device_train_batch_size", "2", *HELD[held]),
        *(word.replace("PLUGIN", str(plugin)) for word in COMMANDS[command]),
        *(["--max_completion_length", "8"] if command == "grpo" else ()),
    ]
    if fault == "option":
        argv += ["--learning_rate", "nan"]
    inside = {"loss": (nan, 1), "gradient": (nan_backwards, 0), "last step": (nan_backwards, 1)}
    if fault in inside:
        build = Job.build

        def faulty(job: Job) -> Any:
            trainer = build(job)
            put_in(trainer, *inside[fault])
            return trainer

        monkeypatch.setattr(Job, "build", faulty)
    code = main(argv)
    said = capsys.readouterr().err
    assert code == (1 if fault in inside else 2), said
    assert "Traceback" not in said
    assert lost(out) == []
    last = out / "checkpoint-1"
    if fault in inside:
        step = 1 if fault == "gradient" else 2
        what = "loss" if fault == "loss" else "the gradient of loss"
        assert said.count(f"trl-deepseek {command}: step {step}: {what} ") == 1
        assert f"the batch is kept in {out}/not_finite/step-{step}-process-0.pt" in said
        kept = torch.load(out / "not_finite" / f"step-{step}-process-0.pt", weights_only=True)
        assert kept["step"] == step
        assert kept["texts"]
        saved = f"the last checkpoint is {last}" if step == 2 else "no checkpoint had been saved"
        assert saved in said
        assert not (out / "model.safetensors").exists()
        assert not (out / "adapter_model.safetensors").exists()
    else:
        named = {
            "base weight": "model.layers.1.mlp.up_proj.weight",
            "column": "row 1",
            "option": "learning_rate is nan",
        }
        assert said.count(named[fault]) == 1
        assert not out.exists()


def put_in(trainer: Any, fault: Fault, step: int) -> None:
    norm = lm_head.unwrap(trainer.model).base_model.norm

    def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        trains = trainer.model.training and torch.is_grad_enabled()
        return fault(output) if trains and trainer.state.global_step == step else output

    norm.register_forward_hook(hook)
