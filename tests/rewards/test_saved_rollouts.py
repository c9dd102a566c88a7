"""GRPO on saved completions: the run that saved them, without generating."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trl_deepseek import GRPOConfig, GRPOTrainer, load_registry
from trl_deepseek.errors import ConfigError, DataError, RunError
from trl_deepseek.rollouts.history import read

REGISTRY = load_registry()


def by_length(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(completion[0]["content"]) % 7) for completion in completions]


def trainer(folder: Path, **given: Any) -> Any:
    options: dict[str, Any] = {"per_device_train_batch_size": 4, "num_generations": 2}
    config = GRPOConfig(
        output_dir=str(folder),
        **{**options, "max_completion_length": 4, "max_steps": 2, "learning_rate": 1e-3, **given},
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        gradient_checkpointing=False,
    )
    rows = REGISTRY.datasets["arithmetic"](size=8)
    return GRPOTrainer("tiny-deepseek-llm", by_length, config, train_dataset=rows)


def test_a_run_on_the_completions_of_another_is_that_run(tmp_path: Path) -> None:
    first = trainer(tmp_path / "first")
    first.train()
    second = trainer(tmp_path / "second", rollouts=str(tmp_path / "first"))
    second.model.generate = None  # is not needed
    second.train()
    for mine, theirs in zip(read(tmp_path / "second"), read(tmp_path / "first"), strict=True):
        assert mine == theirs
    # in another order within a batch: what is drawn while generating is not drawn here
    logged = [
        [(row["loss"], row["grad_norm"]) for row in each.state.log_history if "loss" in row]
        for each in (first, second)
    ]
    assert len(logged[0]) == 2
    for theirs, mine in zip(*logged, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    longer = trainer(tmp_path / "third", rollouts=str(tmp_path / "first"), max_steps=3)
    with pytest.raises(RunError, match=r"^step 2: .*first' holds no completion that was gene"):
        longer.train()
    with pytest.raises(ConfigError, match=r"^rollouts: nothing is generated from saved ones"):
        trainer(tmp_path / "fourth", rollouts=str(tmp_path / "first"), use_vllm=True)
    with pytest.raises(DataError):
        trainer(tmp_path / "fifth", rollouts=str(tmp_path))
