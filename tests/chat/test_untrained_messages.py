"""A message with ``"train": false`` or ``"weight": 0`` carries no loss, in any family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from trl_deepseek import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer, chat, load_registry
from trl_deepseek.errors import DataError

REGISTRY = load_registry()
FAMILIES = sorted(REGISTRY.chat_templates)
OFF: list[dict[str, Any]] = [{"train": False}, {"weight": 0}]
USER: dict[str, Any] = {"role": "user", "content": "q"}


def answer(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def trained_text(template: Any, messages: list[dict[str, Any]]) -> str:
    tokenizer: Any = REGISTRY.models["tiny-deepseek-llm"]()[1]
    encoded = chat.encode(template, messages, tokenizer, training=True)
    pairs = zip(encoded.input_ids, encoded.assistant_mask, strict=True)
    return str(tokenizer.decode([token for token, mask in pairs if mask]))


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_other_messages_are_targets(family: str, off: dict[str, Any]) -> None:
    template = REGISTRY.chat_templates[family]
    first, last = answer("first"), answer("last")
    target = trained_text(template, [USER, {**first, **off}, USER, last])
    assert "first" not in target
    assert (
        target
        == trained_text(template, [USER, first, USER, last]).partition("first")[2][
            len(template.end_of_turn) + (family in ("deepseek-coder", "role-tokens")) :
        ]
    )
    on = {"train": True} if "train" in off else {"weight": 1}
    assert "first" in trained_text(template, [USER, {**first, **on}, USER, last])


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_is_the_same(family: str, off: dict[str, Any]) -> None:
    template = REGISTRY.chat_templates[family]
    for training in (False, True):
        texts = [
            chat.render(template, [USER, answer("a", **more)], training=training)
            for more in ({}, off)
        ]
        assert texts[0] == texts[1]


def sft(tmp_path: Path, *rows: list[dict[str, Any]], **options: Any) -> SFTTrainer:
    args = SFTConfig(
        str(tmp_path),
        **{"chat_template": "deepseek-v3", "report_to": "none", "use_cpu": True, **options},
    )
    data = Dataset.from_list([{"messages": row} for row in rows])
    return SFTTrainer("tiny-deepseek-llm", args=args, train_dataset=data)


def test_sft_takes_no_loss_on_it(tmp_path: Path) -> None:
    trainer = sft(tmp_path, [USER, answer("first", train=False), USER, answer("last")])
    batch = trainer.data_collator([trainer.train_dataset[0]])
    target = [token for token in batch["labels"][0].tolist() if token != -100]
    assert trainer.processing_class.decode(target) == "last<｜end▁of▁sentence｜>"


@pytest.mark.parametrize(
    ("messages", "options", "said"),
    [
        ([answer("a", train=False)], {}, "every assistant message has train false or weight 0"),
        ([answer("a", weight=0.5)], {}, "a weight other than 0 and 1"),
        ([answer("a", train="no")], {}, "a train that is no boolean"),
        (
            [answer("a", train=False), USER, answer("b")],
            {"assistant_only_loss": False},
            "and the loss is not taken by message",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(
    messages: Any, options: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=f"row 0: .*{said}"):
        sft(tmp_path, [USER, *messages], **options)


def test_a_preferred_answer_is_a_target_as_a_whole(tmp_path: Path) -> None:
    row = {"prompt": [USER], "chosen": [answer("a", train=False)], "rejected": [answer("b")]}
    args = DPOConfig(str(tmp_path), chat_template="deepseek-v3", report_to="none", use_cpu=True)
    with pytest.raises(DataError, match="row 0: chosen has an assistant message with train false"):
        DPOTrainer("tiny-deepseek-llm", args=args, train_dataset=Dataset.from_list([row]))
