"""The losses teach: held-out pairs are told apart after a few steps on the tiny model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from trl_deepseek import DPOConfig, DPOTrainer, KTOConfig, load_registry, models, preference_trainer

Build = Callable[..., Any]
REGISTRY = load_registry()


def held_out(model: Any, start: Any, tokenizer: Any, config: Build) -> dict[str, float]:
    """Share of held-out pairs whose chosen answer gained on the rejected one, and by how much."""
    arithmetic = REGISTRY.datasets["arithmetic"]
    judge = DPOTrainer(
        model,
        ref_model=start,
        args=config(DPOConfig, chat_template="deepseek-v3", per_device_eval_batch_size=32),
        train_dataset=arithmetic(kind="preferences", size=4),
        eval_dataset=arithmetic(kind="preferences", split="test", size=32),
        processing_class=tokenizer,
    )
    metrics: dict[str, float] = judge.evaluate()
    return metrics


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.matrix) for n in (1, 2))])
@pytest.mark.parametrize("loss", ["dpo", "ipo", "kto", "orpo"])
def test_a_few_steps_tell_held_out_pairs_apart(
    loss: str, seed: int, tiny: Build, config: Build
) -> None:
    model, tokenizer = tiny(seed=seed)
    start = models.copy_of(model)
    before = held_out(models.copy_of(model), start, tokenizer, config)
    assert before["eval_rewards/margins"] == pytest.approx(0.0, abs=1e-4)  # a toss-up
    trainer = preference_trainer(
        model,
        loss,
        REGISTRY.datasets["arithmetic"](kind="preferences", size=80, seed=seed),
        config(
            KTOConfig if loss == "kto" else DPOConfig,
            chat_template="deepseek-v3",
            per_device_train_batch_size=8,
            learning_rate=1e-3,
            max_steps=10,
            seed=seed,
        ),
        processing_class=tokenizer,
    )
    trainer.train()
    after = held_out(trainer.model, start, tokenizer, config)
    assert after["eval_rewards/accuracies"] >= 0.9
    assert after["eval_rewards/margins"] > 0
