from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from trl_deepseek import SFTConfig, SFTTrainer, load_registry
from trl_deepseek.segments import by_documents

TEXTS = ["one", "two and three", "a somewhat longer document", "four"]


def build(folder: Path, model: str, attention: str, **options: Any) -> Any:
    built, tokenizer = load_registry().models[model](seed=0)
    built.set_attn_implementation(attention)
    rows = [
        {"messages": [{"role": "user", "content": "say"}, {"role": "assistant", "content": text}]}
        for text in TEXTS
    ]
    args = SFTConfig(
        str(folder), chat_template="deepseek-v3", use_cpu=True, bf16=False, report_to="none",
        shuffle_dataset=False, gradient_checkpointing=False, **options,
    )  # fmt: skip
    data = Dataset.from_list(rows)
    return SFTTrainer(built, args, train_dataset=data, processing_class=tokenizer)


@pytest.mark.parametrize(
    ("model", "attention"),
    [
        ("tiny-deepseek-llm", "sdpa"),
        ("tiny-deepseek-v2", "sdpa"),
        ("tiny-deepseek-v3", "sdpa"),
        ("tiny-deepseek-llm", "eager"),
    ],
)
def test_packed_documents_are_as_they_are_alone(tmp_path: Path, model: str, attention: str) -> None:
    packed = build(tmp_path, model, attention, packing=True, max_length=200)
    alone = build(tmp_path, model, attention)
    batch = packed.data_collator(list(packed.train_dataset))
    assert batch["input_ids"].size(0) == len(packed.train_dataset) == 1
    documents = [torch.tensor(row["input_ids"]) for row in alone.train_dataset]
    boundaries = batch["cu_seq_lens_q"].tolist()
    spans = list(itertools.pairwise(boundaries))
    assert len(spans) == len(TEXTS)

    def logits(trainer: Any, **inputs: Any) -> torch.Tensor:
        with torch.no_grad():
            result: torch.Tensor = trainer.model(**inputs).logits[0]
        return result

    together = logits(packed, input_ids=batch["input_ids"], position_ids=batch["position_ids"])
    contaminated = logits(
        packed,
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=torch.ones_like(batch["input_ids"]),
    )
    separate = {tuple(ids.tolist()): logits(alone, input_ids=ids[None]) for ids in documents}
    worst = largest_leak = 0.0
    for start, end in spans:
        own = separate[tuple(batch["input_ids"][0, start:end].tolist())]
        worst = max(worst, (together[start:end] - own).abs().max().item())
        largest_leak = max(largest_leak, (contaminated[start:end] - own).abs().max().item())
    assert worst < 2e-6
    assert largest_leak > 1e-2  # what the check would see if documents attended to each other

    padded = alone.data_collator(list(alone.train_dataset))
    losses = [
        packed.compute_loss(packed.model, dict(batch)),
        alone.compute_loss(alone.model, dict(padded)),
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for loss in losses:
        loss.backward()
    for ours, theirs in zip(packed.model.parameters(), alone.model.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


@pytest.mark.parametrize("model", ["tiny-deepseek-llm", "tiny-deepseek-v3"])
def test_packed_rows_attend_by_documents_with_the_same_loss_and_gradients(
    tmp_path: Path, model: str
) -> None:
    found = []
    for mode in ("off", "on"):
        trainer = build(tmp_path, model, "sdpa", packing=True, max_length=200, prefix_sharing=mode)
        batch = trainer.data_collator(list(trainer.train_dataset))
        with by_documents(trainer.model, mode, batch["position_ids"]) as apart:
            assert apart is (mode == "on")
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        found.append((loss.item(), {n: p.grad for n, p in trainer.model.named_parameters()}))
    (loss, gradients), (loss_apart, gradients_apart) = found
    assert loss_apart == pytest.approx(loss, rel=1e-5)
    for name, gradient in gradients.items():
        if gradient is not None:
            torch.testing.assert_close(gradients_apart[name], gradient, rtol=1e-5, atol=1e-6)
