"""Prompts that are text, asked as turns: what the model reads, and that it is said where not."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from datasets import Dataset

from trl_deepseek import chat, data, load_registry
from trl_deepseek.jobs import evaluate
from trl_deepseek.jobs.evaluate_options import EvaluateOptions

USER, REPLY = {"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}


@pytest.mark.parametrize(
    ("row", "turned"),
    [
        ({"prompt": "1+1", "solution": "2"}, {"prompt": [USER], "solution": "2"}),
        ({"prompt": "1+1", "completion": "2"}, {"prompt": [USER], "completion": [REPLY]}),
        (
            {"prompt": [USER], "chosen": "2", "rejected": "2"},
            {"prompt": [USER], "chosen": [REPLY], "rejected": [REPLY]},
        ),
        ({"prompt": [USER]}, {"prompt": [USER]}),
        ({"messages": [USER, REPLY]}, {"messages": [USER, REPLY]}),
        ({"chosen": "1+1=2", "rejected": "1+1=3"}, {"chosen": "1+1=2", "rejected": "1+1=3"}),
    ],
)
def test_text_becomes_the_turn_of_who_says_it(row: dict, turned: dict) -> None:  # type: ignore[type-arg]
    rows = Dataset.from_list([row])
    assert list(data.as_messages(rows)) == [turned]
    assert list(data.as_messages(rows.to_iterable_dataset())) == [turned]


@pytest.mark.parametrize("as_messages", [False, True])
def test_a_prompt_without_its_template_is_said_unless_it_is_asked_as_a_turn(
    as_messages: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps({"prompt": "1+1", "solution": "2"}) + "\n")
    options = EvaluateOptions(
        models=["tiny-deepseek-llm"],
        dataset_name=str(file),
        metrics=["exact_match"],
        as_messages=as_messages,
    )
    with caplog.at_level(logging.INFO, "trl_deepseek"):
        job = evaluate.check(options, load_registry())
    (row,) = job.rows.by_metric["exact_match"]
    assert row["prompt"] == ([USER] if as_messages else "1+1")
    assert ("without its chat template" in caplog.text) != as_messages


def test_nothing_is_said_where_the_model_has_no_template(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = load_registry().models["tiny-deepseek-llm"]()[1]
    rows = Dataset.from_list([{"prompt": "1+1"}])
    with caplog.at_level(logging.INFO, "trl_deepseek"):
        chat.say_if_prompts_are_text(rows, tokenizer, "rows")
        tokenizer.chat_template = None
        chat.say_if_prompts_are_text(rows, tokenizer, "others")
    assert "rows: prompts" in caplog.text
    assert "others" not in caplog.text
