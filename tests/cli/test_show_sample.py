from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.cli.main import main

CHATS = [
    [("user", "6+5?"), ("assistant", "<think>six and five</think>11")],
    [("system", "Be brief."), ("user", "2+2?"), ("assistant", "4")],
]


@pytest.fixture
def chats(tmp_path: Path) -> str:
    file = tmp_path / "chats.jsonl"
    rows = [{"messages": [{"role": r, "content": c} for r, c in chat]} for chat in CHATS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def shown(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, Any]]:
    model = ("--model_name_or_path", "tiny-deepseek-llm", "--report_to", "none")
    assert main(["show-sample", *argv, *model, "--json"]) == 0
    samples: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return samples


def test_sft_shows_what_is_learnt_and_what_is_not(
    chats: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = shown(capsys, "sft", "--dataset_name", chats, "--chat_template", "deepseek-v3")
    assert first["spans"] == [
        {"scored": False, "text": "<｜begin▁of▁sentence｜><｜User｜>6+5?<｜Assistant｜>"},
        {"scored": True, "text": "<think>six and five</think>11<｜end▁of▁sentence｜>"},
    ]
    assert second["text"] == (
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>2+2?<｜Assistant｜>4<｜end▁of▁sentence｜>"
    )
    assert (second["scored"], second["truncated"]) == (2, 0)
    assert len(second["mask"]) == len(second["input_ids"]) == second["tokens"]


def test_what_max_length_cuts_off_is_counted(
    chats: str, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ("sft", "--dataset_name", chats, "--chat_template", "deepseek-v3", "--rows", "1")
    (whole,) = shown(capsys, *argv)
    (cut,) = shown(capsys, *argv, "--max_length", "10")
    assert cut["tokens"] == 10
    assert cut["truncated"] == whole["tokens"] - 10
    assert cut["input_ids"] == whole["input_ids"][:10]


ARITHMETIC = ("--dataset_name", "arithmetic", "--chat_template", "deepseek-r1", "--rows", "1")


def test_a_pair_is_shown_as_two_sequences_of_which_the_completions_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen, rejected = shown(capsys, "ipo", *ARITHMETIC)
    assert [chosen["part"], rejected["part"]] == ["chosen", "rejected"]
    prompts = {sample["spans"][0]["text"] for sample in (chosen, rejected)}
    (prompt,) = prompts
    assert prompt.endswith("<｜Assistant｜><think>\n")
    assert chosen["spans"][1]["scored"] is True
    assert "</think>" in chosen["spans"][1]["text"]


def test_a_reward_model_scores_the_last_token(capsys: pytest.CaptureFixture[str]) -> None:
    chosen, rejected = shown(capsys, "reward", *ARITHMETIC)
    for sample in (chosen, rejected):
        assert sample["mask"] == [0] * (sample["tokens"] - 1) + [1]


def test_grpo_shows_what_is_generated_from(capsys: pytest.CaptureFixture[str]) -> None:
    (sample,) = shown(capsys, "grpo", "--reward_funcs", "exact_match", *ARITHMETIC)
    assert (sample["part"], sample["scored"]) == ("prompt", 0)
    assert sample["text"].endswith("<｜Assistant｜><think>\n")


def test_a_wrong_option_of_the_other_command_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["show-sample", "sft", "--chat_templat", "x"]) == 2
    message = capsys.readouterr().err
    assert "unknown option --chat_templat (did you mean '--chat_template'?)" in message


LONG = "seven times six is forty-two and " * 8


def write(file: Path, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ("--dataset_name", str(file), "--chat_template", "deepseek-v3", "--rows", "4")


def chat(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": "2"}]


def test_a_row_of_which_nothing_is_learnt_keeps_its_number_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"messages": chat(q)} for q in ("1+1?", LONG, "1+2?")]
    argv = write(tmp_path / "rows.jsonl", rows)
    found = shown(capsys, "sft", *argv, "--max_length", "40")
    assert [(s["row"], s["left_out"]) for s in found] == [(0, False), (1, True), (2, False)]
    assert [s["truncated"] for s in found] == [0, found[1]["truncated"], 0]
    assert found[1]["truncated"] > 0
    model = ("--model_name_or_path", "tiny-deepseek-llm", "--report_to", "none")
    assert main(["show-sample", "sft", *argv, "--max_length", "40", *model]) == 0
    assert "; max_length leaves nothing to learn, so the row is left out" in " ".join(
        capsys.readouterr().out.split()
    )


def test_where_max_length_leaves_no_row_each_is_shown_with_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = write(tmp_path / "rows.jsonl", [{"messages": chat(LONG)}] * 2)
    assert [s["left_out"] for s in shown(capsys, "sft", *argv, "--max_length", "20")] == [True] * 2


def test_rows_are_numbered_as_in_the_file_where_bad_ones_are_dropped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": "1+1=", "chosen": "3", "rejected": "3"},
        {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
        {"prompt": LONG, "chosen": "2", "rejected": "3"},
    ]
    argv = (*write(tmp_path / "rows.jsonl", rows), "--drop_bad_rows", "--max_length", "40")
    for command in (("preference", "--loss_type", "ipo"), ("reward",)):
        found = shown(capsys, *command, *argv)
        assert [(s["row"], s["part"], s["left_out"]) for s in found] == [
            (1, "chosen", False),
            (1, "rejected", False),
            (2, "chosen", True),
            (2, "rejected", True),
        ]
        assert [s["truncated"] for s in found[:2]] == [0, 0]


def test_nothing_is_said_of_options_of_a_model_that_is_not_loaded(
    chats: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from trl_deepseek import load_registry

    model, tokenizer = load_registry().models["tiny-deepseek-llm"]()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    argv = ("--model_name_or_path", str(tmp_path / "model"), "--report_to", "none", "--json")
    command = ["show-sample", "sft", "--dataset_name", chats, "--chat_template", "deepseek-v3"]
    assert main([*command, *argv]) == 0
    assert "model_init_kwargs" not in capsys.readouterr().err
