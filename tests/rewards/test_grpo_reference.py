"""GRPO with beta on a model that has no name to be loaded by again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from trl_deepseek import GRPOConfig, GRPOTrainer, load_registry

REGISTRY = load_registry()


def remainder(completion: str, **_: Any) -> float:
    return float(sum(map(ord, completion)) % 7)


def trained(model: Any, tmp_path: Path, **options: Any) -> GRPOTrainer:
    config = GRPOConfig(
        str(tmp_path / "out"),
        beta=0.04,
        learning_rate=1e-3,
        chat_template="deepseek-v3",
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=4,
        max_steps=2,
        logging_steps=1,
        save_strategy="no",
        save_completions=False,
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
    )
    rows = REGISTRY.datasets["arithmetic"](size=4)
    trainer = GRPOTrainer(model, remainder, config, train_dataset=rows, **options)
    trainer.train()
    return trainer


def kl(trainer: GRPOTrainer) -> list[float]:
    return [record["kl"] for record in trainer.state.log_history if "kl" in record]


def test_a_model_in_memory_is_its_own_reference_as_one_on_disk_is(tmp_path: Path) -> None:
    model, tokenizer = REGISTRY.models["tiny-deepseek-llm"]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    in_memory = trained(model, tmp_path, processing_class=tokenizer)
    by_name = trained(str(tmp_path / "model"), tmp_path)  # TRL loads the reference itself
    assert kl(in_memory) == kl(by_name)
    assert kl(in_memory)[1] > 0
    reference = in_memory.ref_model.state_dict()
    assert all(torch.equal(reference[name], value) for name, value in before.items())
    assert not torch.equal(model.lm_head.weight, before["lm_head.weight"])


@pytest.mark.matrix
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_an_embedded_model_has_a_reference(adapter: bool, tmp_path: Path) -> None:
    options = {"peft_config": LoraConfig(target_modules=["q_proj"])} if adapter else {}
    trainer = trained("tiny-deepseek-llm", tmp_path, **options)
    assert kl(trainer)[0] == pytest.approx(0, abs=1e-6)
    assert kl(trainer)[1] > 0
    assert (trainer.ref_model is None) == adapter
