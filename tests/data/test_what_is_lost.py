"""Rows that max_length, or their labels, take out of training are counted and named."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trl
from datasets import Dataset, IterableDataset

from trl_deepseek import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
    load_registry,
)
from trl_deepseek.cli.main import main
from trl_deepseek.errors import DataError
from trl_deepseek.trainers import grpo

LONG = "seven times six is forty-two and " * 8
KINDS = {
    "sft": (SFTTrainer, SFTConfig),
    "dpo": (DPOTrainer, DPOConfig),
    "kto": (KTOTrainer, KTOConfig),
    "reward": (RewardTrainer, RewardConfig),
}


def row(kind: str, prompt: str, answer: str = "2") -> dict[str, Any]:
    ask = [{"role": "user", "content": prompt}]
    said = [{"role": "assistant", "content": answer}]
    if kind == "sft":
        return {"prompt": ask, "completion": said}
    if kind == "kto":
        return {"prompt": ask, "completion": said, "label": len(prompt) % 2 == 0}
    return {"prompt": ask, "chosen": said, "rejected": [{"role": "assistant", "content": "3"}]}


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Any]:
    """Builds a trainer on rows that are too long to train in earnest."""

    def trainer(kind: str, rows: Any, **options: Any) -> Any:
        trainer_class, config_class = KINDS[kind]
        data = Dataset.from_list(rows) if isinstance(rows, list) else rows
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path / "out"),
            "chat_template": "deepseek-v3",
            "per_device_train_batch_size": 2,
            "report_to": [],
            "bf16": False,
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
        }
        config = config_class(**{**settings, **options})
        return trainer_class("tiny-deepseek-llm", args=config, train_dataset=data)

    return trainer


TOKENS = {"labels": [[5, 6, 7], [-100] * 3, [5, -100, -100], [-100, -100, 7]]}
TOKENS["input_ids"] = [[5, 6, 7]] * 4
PREPARED = {"dataset_kwargs": {"skip_prepare_dataset": True}}


def test_of_rows_that_are_tokens_those_without_labels_are_left_out(
    build: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = build("sft", Dataset.from_dict(TOKENS), **PREPARED)
    assert trainer.left_out["train"] == [1, 2]  # the first token of a row is never predicted
    assert trainer.train_dataset["labels"] == [TOKENS["labels"][0], TOKENS["labels"][3]]
    assert "2 of 4 rows" in caplog.text
    with pytest.raises(DataError, match="all 2 rows of train_dataset have no token that the loss"):
        build("sft", Dataset.from_dict(TOKENS).select([1, 2]), **PREPARED)


def test_labels_that_a_transform_makes_are_not_judged_by_what_is_stored(
    build: Callable[..., Any],
) -> None:
    rows = Dataset.from_dict(TOKENS).with_transform(lambda b: {**b, "labels": b["input_ids"]})
    assert len(build("sft", rows, **PREPARED).train_dataset) == 4


def test_a_faulty_row_of_tokens_is_named_by_its_number_in_the_file(
    build: Callable[..., Any],
) -> None:
    rows = Dataset.from_dict({name: [*each, [5]] for name, each in TOKENS.items()})
    rows = Dataset.from_list([*rows, {"input_ids": [1, 2], "labels": None}])
    with pytest.raises(DataError, match=r"^train_dataset: row 5: column 'labels' holds nothing"):
        build("sft", rows, **PREPARED)


def test_rows_that_are_tokens_and_have_no_labels_at_all_are_left_as_they_are(
    build: Callable[..., Any],
) -> None:
    rows = Dataset.from_dict(TOKENS).remove_columns("labels")
    trainer = build("sft", rows, **PREPARED)
    assert len(trainer.train_dataset) == 4
    assert trainer.left_out == {}


LOST = {
    "sft": "have no token left to learn once they are cut to max_length=40",
    "dpo": "have a prompt that fills max_length=40 tokens",
    "kto": "have a prompt that fills max_length=40 tokens",
    "reward": "have a chosen or rejected text of more than max_length=40 tokens",
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_max_length_takes_out_are_counted_and_named(
    kind: str, build: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row(kind, "1+1?"), row(kind, LONG), row(kind, "1+11?"), row(kind, LONG + ".")]
    trainer = build(kind, rows, max_length=40)
    assert len(trainer.train_dataset) == 2
    assert trainer.left_out == {"train": [1, 3]}
    assert (
        f"2 of 4 rows of the train dataset {LOST[kind]} and are left out (rows 1, 3); "
        "raise max_length to keep them" in caplog.messages
    )


@pytest.mark.parametrize("kind", KINDS)
def test_all_rows_gone_is_one_message(kind: str, build: Callable[..., Any]) -> None:
    rows = [row(kind, LONG), row(kind, LONG + ".")]
    with pytest.raises(DataError) as caught:
        build(kind, rows, max_length=40)
    assert str(caught.value) == (
        f"all 2 rows of the train dataset {LOST[kind]}, so that none is left\n"
        "  raise max_length to keep them"
    )


@pytest.mark.parametrize("kind", ["sft", "dpo", "kto"])
def test_rows_that_are_cut_in_part_are_counted(
    kind: str, build: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [row(kind, "1+1?"), row(kind, "1+11?", LONG)]
    assert len(build(kind, rows, max_length=40).train_dataset) == 2
    assert (
        "1 of 2 rows of the train dataset are cut to max_length=40 tokens; raise max_length to "
        "keep them whole" in caplog.messages
    )


def silent(prompt: str) -> dict[str, Any]:
    """A conversation whose assistant has only empty turns before the user's last word."""
    return {"input_ids": [5, 6, 7, 8], "labels": [-100] * 4, "name": prompt}


@pytest.mark.parametrize("packing", [False, True])
def test_rows_without_a_label_are_never_trained_on_in_silence(
    packing: bool, build: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    learnt = {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8], "name": "c"}
    trainer = build(
        "sft", [silent("a"), learnt, silent("b"), learnt], max_length=16, packing=packing,
        padding_free=False, packing_strategy="wrapped",
    )  # fmt: skip
    assert trainer.left_out == {"train": [0, 2]}
    tokens = sum(len(r["input_ids"]) for r in trainer.train_dataset)
    assert tokens == 8
    assert any(
        "2 of 4 rows of the train dataset have no token that the" in m for m in caplog.messages
    )
    with pytest.raises(DataError, match="all 2 rows of the train dataset have no token that the l"):
        build("sft", [silent("a"), silent("b")], max_length=16, packing=packing)


def test_nothing_is_said_where_nothing_is_lost(
    build: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = build("sft", [row("sft", "1+1?"), row("sft", "1+2?")], max_length=400)
    assert trainer.left_out == {"train": []}
    assert not [r for r in caplog.records if "rows" in r.message and r.levelno >= logging.WARNING]


def test_a_grpo_dataset_that_fills_no_batch_is_refused_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = GRPOConfig(
        output_dir=str(tmp_path), num_generations=2, per_device_train_batch_size=8, report_to=[],
        bf16=False, use_cpu=True,
    )  # fmt: skip
    monkeypatch.setattr(grpo, "find", lambda *_: pytest.fail("a model is loaded"))
    rows = Dataset.from_list([{"prompt": "1+1=", "solution": "2"}] * 3)
    with pytest.raises(DataError, match="train_dataset has 3 prompts, and one generated batch"):
        GRPOTrainer("tiny-deepseek-llm", "exact_match", config, train_dataset=rows)


TOKEN = "<｜User｜>"
THOUGHT = [{"role": "assistant", "content": "2", "reasoning_content": "one and one"}]


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate_checks_a_dataset_as_the_constructor_does(
    kind: str, build: Callable[..., Any]
) -> None:
    trainer = build(kind, [row(kind, "1+1?"), row(kind, "1+11?")])
    with pytest.raises(DataError, match=r"eval_dataset, row 1: .*<｜User｜>"):
        trainer.evaluate(Dataset.from_list([row(kind, "1+1?"), row(kind, f"1+1{TOKEN}?")]))


def test_evaluate_says_thinking_as_the_constructor_does(
    build: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    thinks = {**row("sft", "1+1?"), "completion": THOUGHT}
    trainer = build("sft", [thinks, thinks], chat_template="deepseek-v3.1")
    metrics = trainer.evaluate(Dataset.from_list([thinks, thinks]))
    assert metrics["eval_loss"] > 0
    assert not any("not a prefix" in message for message in caplog.messages)


def test_evaluate_checks_prompts_and_columns_of_grpo(tmp_path: Path) -> None:
    config = GRPOConfig(
        output_dir=str(tmp_path), num_generations=2, per_device_train_batch_size=2, report_to=[],
        bf16=False, use_cpu=True, chat_template="deepseek-v3", save_completions=False,
    )  # fmt: skip
    good = {"prompt": [{"role": "user", "content": "1+1?"}], "solution": "2"}
    trainer = GRPOTrainer(
        "tiny-deepseek-llm", "exact_match", config, train_dataset=Dataset.from_list([good])
    )
    bad = {**good, "prompt": []}
    with pytest.raises(DataError, match="eval_dataset: row 1: column 'prompt' holds an empty list"):
        trainer.evaluate(Dataset.from_list([good, bad]))
    with pytest.raises(DataError, match="needs the column 'solution'"):
        trainer.evaluate(Dataset.from_list([good]).remove_columns("solution"))


def stream(kind: str, *prompts: str) -> IterableDataset:
    return IterableDataset.from_generator(lambda: iter([row(kind, p) for p in prompts]))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_leave_a_stream_are_said_once_and_when_none_is_left(
    kind: str,
    build: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trl_deepseek.data.rows.PATIENCE", 3)
    rows = stream(kind, "1+1?", LONG, "1+11?", LONG + ".")
    options = {"max_length": 40, "max_steps": 1, "shuffle_dataset": False}
    if kind != "sft":
        del options["shuffle_dataset"]
    trainer = build(kind, rows, **options)
    caplog.clear()
    assert len(list(trainer.train_dataset)) == 2
    assert sum("rows of the train dataset that have" in m for m in caplog.messages) == 1
    with pytest.raises(DataError, match="the first 3 rows of the train dataset have"):
        list(build(kind, stream(kind, *[LONG] * 4), **options).train_dataset)


def test_a_command_that_max_length_leaves_nothing_exits_with_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row("sft", LONG)) + "\n" for _ in range(2)))
    argv = ["--dataset_name", str(file), "--chat_template", "deepseek-v3", "--max_length", "40"]
    model = ["--model_name_or_path", "tiny-deepseek-llm", "--output_dir", str(tmp_path / "out")]
    assert main(["sft", *argv, *model, "--report_to", "none"]) == 2
    assert capsys.readouterr().err.endswith(
        f"trl-deepseek sft: all 2 rows of {file} {LOST['sft']}, so that none is left\n"
        "  raise max_length to keep them\n"
    )


@pytest.mark.filterwarnings("ignore:Detected legacy dataset columns")
def test_tokens_under_trls_older_names_are_taken(build: Callable[..., Any]) -> None:
    pair = {"chosen_input_ids": [5, 6, 7], "rejected_input_ids": [5, 6]}
    assert len(build("reward", [pair, pair]).train_dataset) == 2


@pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode:FutureWarning")
@pytest.mark.parametrize("limit", [6, 7, 40])
@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
def test_rows_are_cut_as_trl_cuts_them(
    limit: int, mode: str, build: Callable[..., Any], tmp_path: Path
) -> None:
    rows = [
        {"input_ids": [*range(size)], "labels": [*range(size - 2), -100, -100]}
        for size in (4, 5, 6, 7, 30)
    ]
    model, tokenizer = load_registry().models["tiny-deepseek-llm"]()
    config = trl.SFTConfig(
        output_dir=str(tmp_path), max_length=limit, truncation_mode=mode, report_to=[], bf16=False,
        use_cpu=True,
    )  # fmt: skip
    stock = trl.SFTTrainer(
        model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
    )
    ours = build("sft", rows, max_length=limit, truncation_mode=mode)
    assert ours.train_dataset.to_list() == stock.train_dataset.to_list()
