"""A text begins with one token, whoever writes it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers.processors import TemplateProcessing

from trl_deepseek import SFTConfig, SFTTrainer, chat, load_registry

BOS = "<｜begin▁of▁sentence｜>"


@pytest.fixture
def adding() -> Any:
    """A tokenizer that puts its token in front of everything, as Llama's."""
    tokenizer: Any = load_registry().models["tiny-deepseek-llm"]()[1]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.bos_token_id)]
    )
    return tokenizer


def test_the_token_in_the_text_is_left_out_and_that_is_said(
    adding: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data = Dataset.from_list([{"text": f"{BOS}{BOS}a"}, {"text": f"b{BOS}"}])
    with caplog.at_level(logging.WARNING):
        found = chat.begin_once(data, adding, "texts.jsonl")
    assert list(found["text"]) == ["a", f"b{BOS}"]
    assert [record.getMessage() for record in caplog.records] == [
        f"texts.jsonl: 1 of 2 texts begin with {BOS}, which the tokenizer adds itself: it is left "
        "out of the text, so that each begins once"
    ]


@pytest.mark.parametrize(
    ("row", "changed"),
    [
        ({"prompt": f"{BOS}a", "completion": f"{BOS}b"}, ["prompt"]),
        ({"prompt": f"{BOS}a", "chosen": f"{BOS}b", "rejected": "c"}, ["prompt"]),
        ({"chosen": f"{BOS}b", "rejected": f"{BOS}c"}, ["chosen", "rejected"]),
        ({"prompt": [{"role": "user", "content": "q"}]}, []),
        ({"input_ids": [1, 2]}, []),
    ],
)
def test_where_a_text_begins_is_known(adding: Any, row: dict[str, Any], changed: Any) -> None:
    data = Dataset.from_list([row])
    expected = {**row, **{column: row[column][len(BOS) :] for column in changed}}
    assert list(chat.begin_once(data, adding, "rows")) == [expected]
    assert list(chat.begin_once(data.to_iterable_dataset(), adding, "rows")) == [expected]


def test_a_tokenizer_that_adds_nothing_keeps_the_text() -> None:
    tokenizer = load_registry().models["tiny-deepseek-llm"]()[1]
    data = Dataset.from_list([{"text": f"{BOS}a"}])
    assert chat.begin_once(data, tokenizer, "rows") is data


def test_sft_on_rendered_text_begins_once(adding: Any, tmp_path: Path) -> None:
    args = SFTConfig(str(tmp_path), report_to="none", use_cpu=True)
    trainer = SFTTrainer(
        "tiny-deepseek-llm",
        args=args,
        train_dataset=Dataset.from_list([{"text": f"{BOS}User: q"}]),
        processing_class=adding,
    )
    row: Any = trainer.train_dataset[0]
    assert row["input_ids"].count(adding.bos_token_id) == 1
