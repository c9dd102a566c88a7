from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, IterableDataset

from trl_deepseek.data.demonstrations import layout_of, prepare
from trl_deepseek.errors import DataError

USER = {"role": "user", "content": "1+1"}
ASSISTANT = {"role": "assistant", "content": "2"}
ACCEPTED = """
  accepted are
    messages: a list of {role, content}
    prompt and completion: texts or lists of messages
    conversations: a list of {from, value} (ShareGPT)
    instruction, output and perhaps input, system, history (Alpaca)
    text: plain text; or input_ids: tokens
  rename yours: --columns question=prompt answer=completion, or dataset.rename_columns"""


def said(*pairs: str) -> list[dict[str, str]]:
    return [{"from": who, "value": what} for who, what in (pair.split(":", 1) for pair in pairs)]


SHAPES = [
    pytest.param({"messages": [USER, ASSISTANT]}, "messages", None, id="messages"),
    pytest.param(
        {"prompt": "1+1", "completion": "2"}, "prompt and completion (text)", None, id="text pair"
    ),
    pytest.param(
        {"prompt": [USER], "completion": [ASSISTANT]},
        "prompt and completion (messages)",
        None,
        id="turns pair",
    ),
    pytest.param(
        {"prompt": "1+1", "completion": [ASSISTANT]},
        "prompt and completion (text and messages)",
        {"prompt": [USER], "completion": [ASSISTANT]},
        id="mixed pair",
    ),
    pytest.param(
        {"instruction": "Add.", "input": "1+1", "output": "2"},
        "Alpaca rows (instruction, input, output)",
        {"prompt": [{"role": "user", "content": "Add.\n1+1"}], "completion": [ASSISTANT]},
        id="Alpaca",
    ),
    pytest.param(
        {
            "instruction": "1+1",
            "input": "",
            "output": "2",
            "system": "Count.",
            "history": [["0+0", "0"]],
            "text": "### Instruction: ...",
        },
        "Alpaca rows (instruction, input, output)",
        {
            "prompt": [
                {"role": "system", "content": "Count."},
                {"role": "user", "content": "0+0"},
                {"role": "assistant", "content": "0"},
                USER,
            ],
            "completion": [ASSISTANT],
        },
        id="Alpaca with system and history",
    ),
    pytest.param(
        {"conversations": said("human:1+1", "gpt:2"), "system": "Count.", "id": "7"},
        "ShareGPT rows (conversations: from, value)",
        {"messages": [{"role": "system", "content": "Count."}, USER, ASSISTANT]},
        id="ShareGPT",
    ),
    pytest.param(
        {"conversations": [USER, ASSISTANT]},
        "ShareGPT rows (conversations: role, content)",
        {"messages": [USER, ASSISTANT]},
        id="ShareGPT with roles",
    ),
    pytest.param(
        {"messages": said("user:1+1", "assistant:2")},
        "ShareGPT rows (messages: from, value)",
        {"messages": [USER, ASSISTANT]},
        id="messages with from and value",
    ),
    pytest.param({"text": "1+1=2"}, "text (text)", None, id="text"),
    pytest.param({"input_ids": [1, 2]}, "tokens", None, id="tokens"),
]


@pytest.mark.parametrize(("row", "name", "rewritten"), SHAPES)
def test_a_shape_is_recognised_and_read_as_trl_reads_it(
    row: dict[str, Any],
    name: str,
    rewritten: dict[str, Any] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "trl_deepseek"):
        dataset, layout = prepare(Dataset.from_list([row]), name="train")
    assert layout.name == name
    assert dataset[0] == (rewritten or row)
    how = "" if rewritten is None else ", rewritten as conversations"
    assert caplog.messages == [f"train: {name}{how}"]


def test_the_columns_that_a_template_reads_are_kept() -> None:
    row = {"conversations": said("human:1+1", "gpt:2"), "tools": "[]", "source": "x"}
    assert sorted(prepare(Dataset.from_list([row]))[0].column_names) == ["messages", "tools"]


def test_function_calls_become_tool_calls_wherever_they_first_appear() -> None:
    plain = {"conversations": said("human:1+1", "gpt:2")}
    call = json.dumps({"name": "add", "arguments": {"a": 1}})
    calling = {
        "conversations": said("human:1+1", f"function_call:{call}", "observation:2", "gpt:2")
    }
    # The first call stands behind the 1000 rows from which a table's types are taken.
    dataset, _ = prepare(Dataset.from_list([plain] * 1001 + [calling]))
    turns = dataset[1001]["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "tool", "assistant"]
    [called] = turns[1]["tool_calls"]
    assert called["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert not dataset[0]["messages"][1].get("tool_calls")


def test_a_prompt_that_repeats_the_messages_does_not_mislead_trl() -> None:
    row = {"prompt": "1+1", "messages": [USER, ASSISTANT]}  # as in ultrachat
    assert prepare(Dataset.from_list([row]))[0].column_names == ["messages"]


def test_plain_text_goes_before_alpaca_columns_where_there_is_no_template() -> None:
    row = {"instruction": "1+1", "input": "", "output": "2", "text": "### Instruction: ..."}
    data = Dataset.from_list([row])
    assert layout_of(data, has_template=False).kind == "text"
    assert layout_of(data, has_template=True).kind == "conversations"


def test_a_stream_is_rewritten_as_it_comes() -> None:
    rows = [{"instruction": "1+1", "output": "2"}, {"instruction": "1+2", "output": "3"}]
    stream = IterableDataset.from_generator(lambda: iter(rows))
    read = [row["completion"][0]["content"] for row in prepare(stream)[0]]
    assert read == ["2", "3"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "1+1", "answer": "2"},
            "no demonstrations for SFT; the columns are question, answer" + ACCEPTED,
        ),
        (
            {"prompt": "1+1", "chosen": "2", "rejected": "3"},
            "no demonstrations for SFT; the columns are prompt, chosen, rejected\n"
            "  this is preference data: `trl-deepseek preference` or DPOTrainer takes it"
            + ACCEPTED,
        ),
        (
            {"prompt": "1+1", "solution": "2"},
            "no demonstrations for SFT; the columns are prompt, solution\n"
            "  prompts without completions are for `trl-deepseek grpo` or GRPOTrainer" + ACCEPTED,
        ),
        (
            {"messages": "1+1=2"},
            "column 'messages' holds text, not a list of messages",
        ),
        (
            {"messages": [{"speaker": "human", "text": "1+1"}]},
            "column 'messages': a turn has role and content, or from and value; the first one has "
            "speaker, text",
        ),
        (
            {"prompt": "1+1", "completion": 2},
            "column 'completion' holds a whole number, neither text nor a list of messages",
        ),
        (
            {"prompt": ["1+1"], "completion": ["2"]},
            "column 'prompt' holds a list of str, neither text nor a list of messages",
        ),
    ],
)
def test_anything_else_is_refused_with_what_was_found_and_what_would_do(
    row: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError) as error:
        prepare(Dataset.from_list([row]), name="train")
    assert str(error.value) == f"train: {message}"


GOOD_ALPACA = {"instruction": "1+1", "output": "2"}
GOOD_SHAREGPT = {"conversations": said("human:1+1", "gpt:2")}


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        (
            {"messages": [USER, ASSISTANT]},
            {"messages": [USER]},
            "row 1: column 'messages' has no turn of the assistant; its roles are user",
        ),
        (
            {"messages": [USER, ASSISTANT]},
            {"messages": None},
            "row 1: column 'messages' holds nothing, not a list of messages",
        ),
        (
            {"prompt": "1+1", "completion": "2"},
            {"prompt": "1+1", "completion": None},
            "row 1: column 'completion' holds nothing, not text",
        ),
        (
            GOOD_ALPACA,
            {"instruction": "1+1", "output": None},
            "row 1: column 'output' holds nothing, not text",
        ),
        (
            GOOD_SHAREGPT,
            {"conversations": said("human:1+1", "grok:2")},
            "row 1: column 'conversations': nobody is called 'grok'\n  known: human, gpt, chatgpt, "
            "model, observation, function_response, system, developer, user, assistant, tool, "
            "function_call",
        ),
        (
            GOOD_SHAREGPT,
            {"conversations": said("human:1+1", "function_call:add 1")},
            "row 1: a function_call must be JSON with name and arguments, not 'add 1'",
        ),
    ],
)
def test_a_malformed_row_is_named(good: dict[str, Any], bad: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        prepare(Dataset.from_list([good, bad]), name="train")
    assert str(error.value) == f"train: {message}"


def test_rows_in_which_nothing_is_said_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    rows = [GOOD_ALPACA, {"instruction": "1+1", "output": ""}]
    prepare(Dataset.from_list(rows), name="train")
    assert caplog.messages[-1] == (
        "train: nothing is said in 1 of 2 rows (row 1), which teaches to say nothing"
    )


def test_an_empty_dataset_is_refused() -> None:
    with pytest.raises(DataError) as error:
        prepare(Dataset.from_list([]))
    assert str(error.value) == "the dataset has no rows"


def test_the_command_refuses_other_columns_before_it_loads_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trl_deepseek.cli.main import main
    from trl_deepseek.trainers import sft

    def load(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a trainer was built")

    monkeypatch.setattr(sft.SFTTrainer, "__init__", load)
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"question": "1+1", "answer": "2"}) + "\n")
    command = ["sft", "--model_name_or_path", "tiny-deepseek-llm", "--dataset_name", str(file)]
    assert main([*command, "--report_to", "none", "--output_dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        f"trl-deepseek sft: {file}: no demonstrations for SFT; the columns are question, answer"
        f"{ACCEPTED}\n"
    )
