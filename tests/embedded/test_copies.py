from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset

from trl_deepseek import SFTConfig, SFTTrainer, load_registry, models


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_copy_of_a_trained_model_runs_its_own_weights(precision: str, tmp_path: Path) -> None:
    model, tokenizer = load_registry().models["tiny-deepseek-llm"]()
    trainer = SFTTrainer(
        model,
        SFTConfig(
            output_dir=str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=2,
            bf16=precision == "bfloat16",
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"text": "1+1=2"}, {"text": "2+2=4"}]),
        processing_class=tokenizer,
    )
    trainer.train()
    assert "forward" in vars(model)  # what makes a deep copy run the original
    copied = models.copy_of(model).eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        before = copied(ids).logits.clone()
        for parameter in model.parameters():
            parameter.zero_()
        assert torch.equal(copied(ids).logits, before)
        assert before.abs().max() > 0
