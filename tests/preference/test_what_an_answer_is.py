"""What stands in an answer and is none: refused, or said, by every trainer that learns answers."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

import trl_deepseek
from trl_deepseek.errors import DataError

ASKED = [{"role": "system", "content": "Add."}, {"role": "user", "content": "2+2"}]
FURTHER = {"role": "user", "content": "3+3"}
KINDS = ("SFT", "DPO", "KTO", "Reward")


def said(content: Any, **keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **keys}


def row(kind: str, answer: list[Any], prompt: list[Any] = ASKED) -> dict[str, Any]:
    if kind in ("SFT", "KTO"):
        return {"prompt": prompt, "completion": answer, "label": True}
    return {"prompt": prompt, "chosen": answer, "rejected": [said("5")]}


def settings(kind: str, folder: Path) -> Any:
    return getattr(trl_deepseek, f"{kind}Config")(
        str(folder),
        chat_template="deepseek-v3",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        per_device_train_batch_size=2,
    )


def check(kind: str, rows: list[dict[str, Any]], folder: Path) -> Any:
    trainer = getattr(trl_deepseek, f"{kind}Trainer")
    args = settings(kind, folder)
    return trainer.check("tiny-deepseek-llm", args, train_dataset=Dataset.from_list(rows))


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_repeats_its_prompt_is_refused(kind: str, tmp_path: Path) -> None:
    rows = [row(kind, [said("4")]), row(kind, [*ASKED, said("4", tool_calls=[])])]
    with pytest.raises(DataError) as caught:
        check(kind, rows, tmp_path)
    column = "chosen" if kind in ("DPO", "Reward") else "completion"
    assert str(caught.value) == (
        f"train_dataset, row 1: {column} begins with the prompt, which would stand there twice\n"
        "  take it out of the answer; or, where the answers are whole conversations, do without "
        "the column prompt"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_that_begins_with_a_question_is_refused_where_it_would_be_learned(
    kind: str, tmp_path: Path
) -> None:
    rows = [row(kind, [said("4")]), row(kind, [FURTHER, said("6")])]
    if kind == "SFT":  # its loss is on what the assistant says
        assert len(check(kind, rows, tmp_path).train_dataset) == 2
        return
    with pytest.raises(
        DataError, match=r"row 1: .* begins with a message of the user, which would"
    ):
        check(kind, rows, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_to_be_continued_is_not_trained_to_end(kind: str, tmp_path: Path) -> None:
    rows = [row(kind, [said("4")]), row(kind, [said("4 and", prefix=True)])]
    with pytest.raises(DataError, match=r"row 1: .* prefix true, which is to be continued: it "):
        check(kind, rows, tmp_path)


@pytest.mark.parametrize("kind", ["DPO", "KTO"])
def test_what_others_say_within_an_answer_is_told_to_be_scored(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row("DPO", [said("4")]), row("DPO", [said("4"), FURTHER, said("6")])]
    check(kind, rows[:1], tmp_path)
    assert "goes on after" not in caplog.text
    check(kind, rows, tmp_path)
    assert (
        "train_dataset: in 1 of 2 rows (row 1) an answer goes on after a message of the user, "
        "which is scored with it"
    ) in caplog.text


def test_a_pair_is_named_by_its_own_number_also_where_it_is_taken_apart(tmp_path: Path) -> None:
    pairs = [row("DPO", [said("4")], [{"role": "user", "content": f"{n}+2"}]) for n in range(5)]
    pairs[4]["rejected"] = [said("<think>2 and 2")]
    with pytest.raises(DataError, match=r"^train_dataset, row 4: an assistant message opens"):
        check("KTO", pairs, tmp_path)


def test_pairs_that_are_taken_apart_are_labelled_and_told_whether_to_think(tmp_path: Path) -> None:
    args = settings("KTO", tmp_path)
    args.chat_template = "deepseek-v3.1"
    rows = Dataset.from_list([row("DPO", [said("4", reasoning_content="2 and 2")])] * 2)
    found = trl_deepseek.KTOTrainer.check("tiny-deepseek-llm", args, train_dataset=rows)
    told = [
        (single["label"], single["chat_template_kwargs"]["thinking"])
        for single in found.train_dataset
    ]
    assert sorted(told) == [(False, False)] * 2 + [(True, True)] * 2


def test_a_reward_model_reads_parts_beside_text_and_arguments_of_both_forms(
    tmp_path: Path,
) -> None:
    def calls(arguments: Any) -> list[Any]:
        return [{"type": "function", "function": {"name": "add", "arguments": arguments}}]

    parts = [{"type": "text", "text": "2+"}, {"type": "text", "text": "2"}]
    asked = [
        {"role": "user", "content": parts},
        said([], tool_calls=calls('{"a": 2}')),
        {"role": "tool", "content": [{"type": "text", "text": "4"}]},
    ]
    rows = [row("Reward", [said("", tool_calls=calls({"a": 3}))], asked)] * 2
    trainer = trl_deepseek.RewardTrainer(
        "tiny-deepseek-llm",
        settings("Reward", tmp_path),
        train_dataset=Dataset.from_list(rows),
    )
    first = trainer.train_dataset[0]["chosen_ids"]
    called = (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n%s\n```"
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>"
    )
    assert trainer.processing_class.decode(first) == (
        "<｜begin▁of▁sentence｜><｜User｜>2+2<｜Assistant｜>"
        + called % '{"a": 2}'
        + "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>4"
        + "<｜tool▁output▁end｜><｜tool▁outputs▁end｜>"
        + called % '{"a": 3}'
    )


@pytest.mark.parametrize("kind", ["DPO", "KTO"])
def test_a_pair_with_a_label_is_labelled_by_what_it_is(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pairs = [{**row("DPO", [said("4")]), "label": True, "margin": 1.0}] * 2
    found = check(kind, pairs, tmp_path).train_dataset
    if kind == "KTO":
        singles = [(single["completion"][0]["content"], single["label"]) for single in found]
        assert sorted(singles) == [("4", True), ("4", True), ("5", False), ("5", False)]
    assert [part for part in ("'label' is not read", "'margin' is not") if part in caplog.text] == [
        "'label' is not read",
        "'margin' is not",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_tools_that_are_an_empty_text_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 0: column 'tools' holds text that is not JSON"):
        check(kind, [{**row(kind, [said("4")]), "tools": ""}], tmp_path)


def test_rows_of_pairs_that_are_taken_apart_are_told_from_the_pairs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = settings("KTO", tmp_path)
    args.max_length = 32
    pairs = [row("DPO", [said("4")]), row("DPO", [said("4")], [FURTHER, *[said("2 " * 40)] * 2])]
    rows = Dataset.from_list([*pairs, pairs[0]])
    trl_deepseek.KTOTrainer("tiny-deepseek-llm", None, args, train_dataset=rows)
    assert "2 of 6 rows of train_dataset, its pairs taken apart, have a prompt" in caplog.text


def test_prompts_of_two_kinds_are_refused_and_made_turns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in (ASKED[1:], "3+3")))
    rows = trl_deepseek.data.load(str(file), trl_deepseek.load_registry(), kind="prompts")
    with pytest.raises(DataError) as caught:
        trl_deepseek.data.check_prompts(rows, "p.jsonl")
    assert str(caught.value) == (
        "p.jsonl: row 1: column 'prompt' holds text, unlike the first row: all prompts are text, "
        "or all are messages\n  --as_messages makes turns of those that are text"
    )
    turned = trl_deepseek.data.as_messages(rows)
    assert [prompt[0]["content"] for prompt in turned["prompt"]] == ["2+2", "3+3"]
    with caplog.at_level(logging.INFO):
        assert len(trl_deepseek.data.check_prompts(turned, "p.jsonl")) == 2
