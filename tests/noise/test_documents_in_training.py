"""The length that the noise is given, from a trainer's own batches, padded and packed."""

from __future__ import annotations

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from trl_deepseek import SFTConfig, SFTTrainer, load_registry
from trl_deepseek.noise import EmbeddingNoise, NamedNoise

TEXTS = ["a", "bb and more", "c" * 60, "d" * 30]
DRAWS = 25
ALPHA = 5.0


def build(folder: Path, **options: Any) -> Any:
    model, tokenizer = load_registry().models["tiny-deepseek-llm"](seed=0)
    args = SFTConfig(
        str(folder),
        use_cpu=True,
        bf16=False,
        report_to="none",
        gradient_checkpointing=False,
        shuffle_dataset=False,
        **options,
    )
    data = Dataset.from_list([{"text": text} for text in TEXTS])
    return SFTTrainer(model, args, train_dataset=data, processing_class=tokenizer)


LAYOUTS: dict[str, dict[str, Any]] = {
    "padded": {},
    "packed": {"packing": True, "max_length": 120},
    "padding-free": {"padding_free": True, "max_length": None},
}


def draws_per_document(folder: Path, layout: str, noise: str) -> dict[int, np.ndarray[Any, Any]]:
    """Every component that was added to each document over many passes, by its length."""
    trainer = build(folder, **LAYOUTS[layout])
    model = trainer.model.train()
    embedding = model.get_input_embeddings()
    collected: dict[int, list[torch.Tensor]] = defaultdict(list)
    function = load_registry().noises[noise]
    adder = EmbeddingNoise(NamedNoise(noise, function, {"alpha": ALPHA}), seed=len(layout))
    noised: list[torch.Tensor] = []
    batch = trainer.data_collator(list(trainer.train_dataset))
    inputs = {k: v for k, v in batch.items() if k in ("attention_mask", "position_ids")}
    with adder.attached(model):
        hook = embedding.register_forward_hook(lambda m, a, out: noised.append(out.detach()))
        for _ in range(DRAWS):
            model.model(input_ids=batch["input_ids"], **inputs)
            added = noised.pop() - embedding.weight.detach()[batch["input_ids"]]
            for document in documents(batch, added):
                collected[document.size(0)].append(document.flatten())
        hook.remove()
    assert adder.firings == DRAWS
    return {length: torch.cat(parts).numpy() for length, parts in collected.items()}


def documents(batch: dict[str, Any], added: torch.Tensor) -> list[torch.Tensor]:
    if "attention_mask" in batch:
        assert not added[batch["attention_mask"] == 0].any()  # padding stays clean
        return [
            row[: int(mask.sum())] for row, mask in zip(added, batch["attention_mask"], strict=True)
        ]
    ends = batch["cu_seq_lens_q"].tolist()[1:]
    return [part for part in added[0].tensor_split(ends) if len(part)]


def distance(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> float:
    """Two-sample Kolmogorov-Smirnov statistic, times the root of the effective sample size."""
    everything = np.concatenate([ours, theirs])
    below = [
        np.searchsorted(np.sort(sample), everything, side="right") / len(sample)
        for sample in (ours, theirs)
    ]
    size = len(ours) * len(theirs) / (len(ours) + len(theirs))
    return float(np.abs(below[0] - below[1]).max() * math.sqrt(size))


@pytest.mark.parametrize("noise", ["neftune", "gaussian"])
@pytest.mark.parametrize("layout", ["packed", "padding-free"])
def test_noise_has_the_same_distribution_per_document_as_when_padded(
    tmp_path: Path, layout: str, noise: str
) -> None:
    padded = draws_per_document(tmp_path, "padded", noise)
    other = draws_per_document(tmp_path, layout, noise)
    assert set(padded) == set(other)
    assert len(padded) == len(TEXTS)
    for length, draws in padded.items():
        # 1.63 is the 1 % point of the limiting distribution; the seeds are fixed.
        assert distance(draws, other[length]) < 1.63, length
        if noise == "neftune":
            bound = ALPHA / math.sqrt(length * 128)
            for sample in (draws, other[length]):
                assert 0.999 * bound < np.abs(sample).max() <= 1.0001 * bound
    # What the test would see if a document were given the length of the whole row.
    lengths = sorted(padded)
    wrong = padded[lengths[0]] * math.sqrt(lengths[0] / sum(lengths))
    assert distance(padded[lengths[0]], wrong) > 5
