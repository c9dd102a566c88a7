"""What a resumed run was made with is compared with what it is made with now."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from trl_deepseek import SFTConfig, SFTTrainer

PLUGIN = """
from trl_deepseek import hookimpl

@hookimpl
def register_noises(register):
    register("none", lambda embeddings, lengths, alpha=0.0: embeddings)
"""


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., None]:
    """Trains one step, or goes on from there; a plugin file stands beside the output."""
    (tmp_path / "mine.py").write_text(PLUGIN)

    def run(*, resume: Any = None, steps: int = 1, answer: str = "2", **options: Any) -> None:
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "out"),
            "chat_template": "deepseek-v3",
            "per_device_train_batch_size": 1,
            "max_steps": steps,
            "save_steps": 1,
            "report_to": [],
            "bf16": False,
            "use_cpu": True,
            "disable_tqdm": True,
            "plugins": [str(tmp_path / "mine.py")],
            "lr_scheduler_type": "constant",
        }
        config = SFTConfig(**{**settings, **options})
        turns = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": answer}]
        rows = Dataset.from_list([{"messages": turns}] * 4)
        trainer = SFTTrainer("tiny-deepseek-llm", args=config, train_dataset=rows)
        trainer.train(resume_from_checkpoint=resume)

    return run


def compared(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name.endswith("provenance")]


def test_nothing_is_said_where_nothing_changed(
    train: Callable[..., None], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    train(steps=2, save_total_limit=None)
    with caplog.at_level(logging.WARNING):
        train(resume=str(tmp_path / "out" / "checkpoint-1"), steps=2, logging_steps=7)
    assert compared(caplog) == []


def test_everything_that_changed_is_named_in_one_warning(
    train: Callable[..., None], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    train()
    (tmp_path / "mine.py").write_text(PLUGIN.replace("alpha=0.0", "alpha=1.0"))
    with caplog.at_level(logging.WARNING):
        train(resume=True, steps=2, answer="3", learning_rate=1e-5, chat_template="deepseek-r1")
    assert compared(caplog) == [
        f"the run goes on from {tmp_path}/out/checkpoint-1, made with other settings or data:\n"
        "  the training data\n"
        "  the chat template\n"
        "  plugin 'mine'\n"
        "  chat_template: deepseek-v3 -> deepseek-r1\n"
        "  learning_rate: 2e-05 -> 1e-05\n"
        "  max_steps: 1 -> 2"
    ]


def test_a_checkpoint_of_another_make_is_no_hindrance(
    train: Callable[..., None], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    train()
    file = tmp_path / "out" / "checkpoint-1" / "run.json"
    assert "hub_token" not in json.loads(file.read_text())["settings"]
    file.write_text("{")
    file.with_name("manifest.json").unlink()  # which earlier versions did not write
    with caplog.at_level(logging.WARNING):
        train(resume=True, steps=2)
    (message,) = compared(caplog)
    assert message.startswith(f"{file} cannot be read, so that nothing can be compared: ")


def test_the_learning_rate_of_a_resumed_run_is_that_of_its_own_settings(
    train: Callable[..., None], tmp_path: Path
) -> None:
    linear = {"lr_scheduler_type": "linear", "warmup_steps": 0, "logging_steps": 1}
    train(steps=2, learning_rate=4e-4, **linear)
    first = str(tmp_path / "out" / "checkpoint-1")
    train(resume=first, steps=4, learning_rate=8e-4, weight_decay=0.5, **linear)
    state = json.loads((tmp_path / "out" / "checkpoint-4" / "trainer_state.json").read_text())
    rates = [log["learning_rate"] for log in state["log_history"] if "learning_rate" in log]
    assert rates == pytest.approx([4e-4, 8e-4 * 3 / 4, 8e-4 * 2 / 4, 8e-4 * 1 / 4])
    saved = torch.load(tmp_path / "out" / "checkpoint-4" / "optimizer.pt", weights_only=True)
    assert saved["param_groups"][0]["weight_decay"] == 0.5
