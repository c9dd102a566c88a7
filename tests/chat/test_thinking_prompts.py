"""A prompt that is rendered apart from its completion fits it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset

import trl_deepseek
from trl_deepseek import chat, load_registry

USER = [{"role": "user", "content": "1+1"}]
PLAIN = [{"role": "assistant", "content": "2"}]
REASONED = [{"role": "assistant", "content": "<think>one and one</think>2"}]
TOGGLED = (
    *("deepseek-v3.1", "deepseek-v3.2-exp", "deepseek-v3.2"),
    *("deepseek-v4", "deepseek-v4-0731", "deepseek-v4.1"),
)


def tokenizer(name: str) -> Any:
    built = load_registry().models["tiny-deepseek-llm"]()[1]
    chat.install(built, name)
    return built


def trainer(method: str, template: str, rows: list[dict[str, Any]], folder: Path) -> Any:
    config = getattr(trl_deepseek, f"{method}Config")(
        output_dir=str(folder),
        chat_template=template,
        per_device_train_batch_size=2,
        report_to="none",
        disable_tqdm=True,
    )
    build = getattr(trl_deepseek, f"{method}Trainer")
    return build(model="tiny-deepseek-llm", args=config, train_dataset=Dataset.from_list(rows))


@pytest.mark.parametrize("template", TOGGLED)
def test_the_prompt_of_a_pair_with_reasoning_asks_for_it(template: str, tmp_path: Path) -> None:
    rows = [
        {"prompt": USER, "chosen": REASONED, "rejected": PLAIN},
        {"prompt": USER, "chosen": PLAIN, "rejected": [{"role": "assistant", "content": "3"}]},
    ]
    built = trainer("DPO", template, rows, tmp_path)
    decode = built.processing_class.decode
    first, second = built.train_dataset
    assert decode(first["prompt_ids"]).endswith("<｜Assistant｜><think>")
    assert decode(first["chosen_ids"]) == "one and one</think>2<｜end▁of▁sentence｜>"
    assert decode(first["rejected_ids"]) == "</think>2<｜end▁of▁sentence｜>"
    assert decode(second["prompt_ids"]).endswith("<｜Assistant｜></think>")
    assert decode(second["chosen_ids"]) == "2<｜end▁of▁sentence｜>"


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_inside_a_pair_with_reasoning_asks_for_it(stream: bool, tmp_path: Path) -> None:
    rows = [
        {"chosen": USER + REASONED, "rejected": USER + PLAIN},
        {"chosen": USER + PLAIN, "rejected": [*USER, {"role": "assistant", "content": "3"}]},
    ]
    dataset: Any = Dataset.from_list(rows)
    found = chat.with_thinking(
        dataset.to_iterable_dataset() if stream else dataset, tokenizer("deepseek-v3.1")
    )
    first, second = found
    assert first["prompt"] == second["prompt"] == USER
    assert (first["chosen"], first["rejected"]) == (REASONED, PLAIN)
    says = [row["chat_template_kwargs"]["thinking"] for row in (first, second)]
    assert says == [True, False]


@pytest.mark.parametrize("method", ["SFT", "KTO"])
def test_the_prompt_of_a_completion_with_reasoning_asks_for_it(method: str, tmp_path: Path) -> None:
    rows = [
        {"prompt": USER, "completion": completion, "label": label}
        for completion, label in ((REASONED, True), (PLAIN, False))
    ]
    if method == "SFT":
        rows = [{name: row[name] for name in ("prompt", "completion")} for row in rows]
    built = trainer(method, "deepseek-v3.1", rows, tmp_path)
    texts = []
    for row in built.train_dataset:
        columns = [name for name in ("prompt_ids", "completion_ids", "input_ids") if name in row]
        texts.append("".join(built.processing_class.decode(row[name]) for name in columns))
    assert texts[0].endswith("<｜Assistant｜><think>one and one</think>2<｜end▁of▁sentence｜>")
    assert texts[1].endswith("<｜Assistant｜></think>2<｜end▁of▁sentence｜>")


def test_a_row_that_says_it_itself_keeps_what_it_says() -> None:
    rows = [
        {"prompt": USER, "completion": REASONED, "chat_template_kwargs": {"thinking": False}},
        {"prompt": USER, "completion": PLAIN, "chat_template_kwargs": {"thinking": None}},
    ]
    found = chat.with_thinking(Dataset.from_list(rows), tokenizer("deepseek-v3.1"))
    assert [row["chat_template_kwargs"]["thinking"] for row in found] == [False, False]


@pytest.mark.parametrize("template", ["deepseek-r1", "deepseek-v3", "role-tokens"])
def test_formats_without_the_option_and_data_without_reasoning_stay_as_they_are(
    template: str,
) -> None:
    reasoned = Dataset.from_list([{"prompt": USER, "completion": REASONED}])
    assert chat.with_thinking(reasoned, tokenizer(template)) is reasoned
    plain = Dataset.from_list([{"prompt": USER, "completion": PLAIN}])
    assert chat.with_thinking(plain, tokenizer("deepseek-v3.1")) is plain


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "others",
    [[None], [{"thinking": True}], [{"thinking": True}, {"note": ["one"]}]],
    ids=["no row has any", "one row has some", "rows have unlike ones"],
)
@pytest.mark.parametrize("template", ["deepseek-llm", "deepseek-v3.1"])
def test_a_row_whose_template_options_are_null_has_none(
    template: str, others: list[Any], stream: bool, tmp_path: Path
) -> None:
    row = {"prompt": USER, "completion": PLAIN}
    file = tmp_path / "rows.jsonl"
    each = [{**row, "chat_template_kwargs": options} for options in (*others, None)]
    file.write_text("".join(json.dumps(row) + "\n" for row in each))
    rows = load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path))
    config = trl_deepseek.SFTConfig(
        output_dir=str(tmp_path), chat_template=template, report_to="none", max_steps=1
    )

    def last(rows: Dataset) -> Any:
        given = rows.to_iterable_dataset() if stream else rows
        built = trl_deepseek.SFTTrainer("tiny-deepseek-llm", config, train_dataset=given)
        return [*built.train_dataset][-1]["input_ids"]

    assert last(rows) == last(Dataset.from_list([row, row]))
