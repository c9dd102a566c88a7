"""Rows are prepared as stock TRL prepares them, to the last token, label and column."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trl
from datasets import Dataset

import trl_deepseek
from trl_deepseek import load_registry

REGISTRY = load_registry()
FEW = ("deepseek-v3",)
FAMILIES = [
    pytest.param(name, marks=() if name in FEW else pytest.mark.matrix)
    for name in REGISTRY.chat_templates
]
ASK = [{"role": "system", "content": "s"}, {"role": "user", "content": "Was heißt 蓝?"}]
ANSWER = [{"role": "assistant", "content": "blau 🙂"}]
MORE = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a longer answer"}]
LAYOUTS: dict[str, Any] = {
    "messages": [{"messages": [*ASK, *ANSWER, *MORE], "n": 1}, {"messages": [*MORE], "n": 2}] * 2,
    "completions": [
        {"prompt": ASK, "completion": ANSWER},
        {"prompt": MORE[:1], "completion": ANSWER},
    ],
    "texts": [{"text": "one two"}, {"text": "three"}],
}


CASES: list[tuple[str, dict[str, Any]]] = [
    ("messages", {}),
    ("messages", {"assistant_only_loss": True}),
    ("completions", {}),
    ("completions", {"assistant_only_loss": True}),
    ("completions", {"completion_only_loss": False}),
    ("texts", {}),
]


@pytest.mark.parametrize(("layout", "loss"), CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_as_trl_prepares_them(
    family: str, layout: str, loss: dict[str, Any], tmp_path: Path
) -> None:
    template = REGISTRY.chat_templates[family]
    prepared = []
    for library in (trl, trl_deepseek):
        model, tokenizer = REGISTRY.models["tiny-deepseek-llm"]()
        tokenizer.chat_template, tokenizer.eos_token = template.training, template.end_of_turn
        own = {"chat_template": family} if library is trl_deepseek else {}
        args = library.SFTConfig(
            output_dir=str(tmp_path), max_length=64, report_to=[], bf16=False, use_cpu=True,
            **{"assistant_only_loss": False, **loss, **own},
        )  # fmt: skip
        trainer = library.SFTTrainer(
            model,
            args,
            train_dataset=Dataset.from_list(LAYOUTS[layout]),
            processing_class=tokenizer,
        )
        prepared.append(trainer.train_dataset)
    stock, ours = prepared
    assert ours.to_list() == stock.to_list()
    assert ours.features == stock.features
    assert ours.column_names == stock.column_names
