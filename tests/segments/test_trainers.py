"""``prefix_sharing`` in the trainers: losses and gradients of a batch with it and without."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from trl_deepseek import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    load_registry,
)
from trl_deepseek.lm_head import unwrap

PROMPT = "Add the two numbers and say nothing but the sum: "
TRAINERS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "dpo": (DPOTrainer, DPOConfig, {"loss_type": ["dpo"]}),
    "orpo": (DPOTrainer, DPOConfig, {"loss_type": ["orpo"]}),
    "kto": (KTOTrainer, KTOConfig, {"loss_type": "kto"}),
    "reward": (RewardTrainer, RewardConfig, {}),
}


def pairs() -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": f"{PROMPT}{i}+{i}=",
                "chosen": f"{2 * i}" + "!" * (i % 3),
                "rejected": f"{i} " * (1 + i % 4),
            }
            for i in range(11, 19)
        ]
    )


def build(folder: Path, kind: str, model: str, tuning: str, attention: str, **options: Any) -> Any:
    trainer, config, named = TRAINERS[kind]
    settings: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "max_steps": 2,
        "logging_steps": 1, "report_to": [], "save_strategy": "no", "bf16": False, "use_cpu": True,
        "gradient_checkpointing": False, "disable_tqdm": True, **named, **options,
    }  # fmt: skip
    built, tokenizer = load_registry().models[model](seed=0)
    if kind == "reward":  # which ours makes of a language model that it finds by name
        built = model
    rest: dict[str, Any] = {}
    if tuning == "lora":
        rest["peft_config"] = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.0)
    if tuning == "qlora":
        settings["quantization"] = "qlora"
    made = trainer(
        built, args=config(**settings), train_dataset=pairs(), processing_class=tokenizer, **rest
    )
    for each in (made.model, getattr(made, "ref_model", None)):
        if each is not None:
            unwrap(each).set_attn_implementation(attention)
    return made


def loss_and_gradients(trainer: Any) -> tuple[float, dict[str, torch.Tensor], int]:
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    for name, parameter in trainer.model.named_parameters():
        if "lora_B" in name:  # zero at first, and then nothing would depend on lora_A
            torch.manual_seed(0)
            parameter.data = torch.randn_like(parameter) * 0.02
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradients = {
        n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None
    }
    return loss.item(), gradients, trainer._prefix_sharing.shared


CELLS = list(
    itertools.product(
        TRAINERS,
        ("tiny-deepseek-llm", "tiny-deepseek-v2", "tiny-deepseek-v3"),
        ("full", "lora", "qlora"),
        ("sdpa", "eager"),
        (False, True),
    )
)
ON_ROUTERS = pytest.mark.transformers("5.13")  # where all-linear means those of V3 too
EVERY_DAY = {
    ("dpo", "tiny-deepseek-v3", "lora", "sdpa", True),
    ("orpo", "tiny-deepseek-llm", "full", "eager", False),
    ("kto", "tiny-deepseek-v2", "qlora", "sdpa", False),
    ("kto", "tiny-deepseek-llm", "full", "sdpa", True),
    ("reward", "tiny-deepseek-llm", "lora", "sdpa", True),
}


@pytest.mark.parametrize(
    ("kind", "model", "tuning", "attention", "checkpointing"),
    [
        pytest.param(
            *cell,
            marks=[pytest.mark.matrix] * (cell not in EVERY_DAY)
            + [ON_ROUTERS] * (cell[1:3] == ("tiny-deepseek-v3", "lora")),
        )
        for cell in CELLS
    ],
)
def test_a_batch_has_the_loss_and_gradients_that_it_has_without(
    tmp_path: Path, kind: str, model: str, tuning: str, attention: str, checkpointing: bool
) -> None:
    options: dict[str, Any] = {"gradient_checkpointing": checkpointing}
    if checkpointing:
        options["gradient_checkpointing_kwargs"] = {"use_reentrant": False}
    found = [
        loss_and_gradients(
            build(tmp_path, kind, model, tuning, attention, prefix_sharing=mode, **options)
        )
        for mode in ("off", "on")
    ]
    (loss, gradients, passes), (shared_loss, shared_gradients, shared_passes) = found
    assert (passes, shared_passes > 0) == (0, True)
    exact = 1e-5 if tuning != "qlora" else 2e-2  # adapters on packed weights are in bfloat16
    assert shared_loss == pytest.approx(loss, rel=exact)
    assert gradients.keys() == shared_gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            shared_gradients[name], gradient, rtol=exact, atol=exact * largest, msg=name
        )
