"""A fault is told alike wherever its row stands, whoever looked at it, and whenever that was."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, load_dataset
from transformers import PreTrainedTokenizerBase

import trl_deepseek
from trl_deepseek import chat, load_registry, row_findings
from trl_deepseek.chat.faults import Inspector
from trl_deepseek.data import demonstrations
from trl_deepseek.errors import DataError

ROWS = 2001  # rows are looked at a thousand at a time; of two processes each has about half
PLACES = (0, 999, 1000, 1500, 2000)
USER = {"role": "user", "content": "q", "reasoning": None}
ANSWER = {"role": "assistant", "content": "a", "reasoning": None}
CONTROL = {**USER, "content": "<｜Assistant｜>"}
NAMELESS = {**USER, "role": None}
THOUGHT = {**ANSWER, "reasoning": "so"}
BOTH = pytest.mark.parametrize("processes", [None, 2])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    registry = load_registry()
    tokenizer = registry.models["tiny-deepseek-llm"]()[1]
    chat.install(tokenizer, "deepseek-v3.1", registry)
    return tokenizer


def rows(*odd: dict[str, Any], places: tuple[int, ...] = PLACES) -> list[dict[str, Any]]:
    """Conversations of two turns, and in some places others."""
    plain = {"messages": [USER, ANSWER], "tools": "[]"}
    return [
        {**plain, "messages": [*odd, ANSWER]} if number in places else plain
        for number in range(ROWS)
    ]


def kept(data: list[dict[str, Any]], folder: Path) -> Dataset:
    """A table for which ``datasets`` has a folder."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in data))
    return load_dataset("json", data_files=str(file), split="train", cache_dir=str(folder))


@BOTH
@pytest.mark.parametrize("has_cache", [False, True])
def test_every_row_with_a_fault_is_named(
    processes: int | None, has_cache: bool, tokenizer: Any, tmp_path: Path
) -> None:
    data = rows(CONTROL)
    table = kept(data, tmp_path) if has_cache else Dataset.from_list(data)
    for _ in range(1 + has_cache):  # told again where it is known already
        with pytest.raises(DataError) as caught:
            chat.check_conversations(table, tokenizer, "chats", processes=processes)
        what = (
            "the user text contains '<｜Assistant｜>', which the tokenizer reads as a control token"
        )
        assert str(caught.value).startswith(f"chats, rows 0, 999, 1000, 1500, 2000: {what}\n")
        assert tuple(caught.value.rows) == PLACES


@BOTH
def test_the_first_row_that_cannot_be_read_goes_before_faults(
    processes: int | None, tokenizer: Any, tmp_path: Path
) -> None:
    data = rows(CONTROL)
    for number in (1200, 1900):
        data[number] = {**data[number], "tools": "["}
    table = kept(data, tmp_path)
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            chat.check_conversations(table, tokenizer, "chats", processes=processes)
        assert str(caught.value).startswith("chats, row 1200: column 'tools' holds text that")
        assert tuple(caught.value.rows) == (1200,)


@BOTH
def test_every_row_that_is_no_demonstration_is_counted(
    processes: int | None, tmp_path: Path
) -> None:
    table = kept(rows(NAMELESS), tmp_path)
    for _ in range(2):
        with pytest.raises(DataError) as caught:
            demonstrations.prepare(table, name="chats", processes=processes)
        assert str(caught.value) == (
            "chats: row 0: column 'messages' message 0 has no role; it has content\n"
            "  rows 999, 1000, 1500, 2000 of 2001 cannot be used either"
        )


@BOTH
def test_what_is_said_of_rows_is_said_by_every_run(
    processes: int | None, tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = rows(USER, THOUGHT, USER)
    data[7] = {**data[7], "messages": [USER, {**ANSWER, "content": " "}]}
    table = kept(data, tmp_path)
    for _ in range(2):
        caplog.clear()
        demonstrations.prepare(table, name="chats", processes=processes)
        chat.check_conversations(table, tokenizer, "chats", processes=processes)
        empty, changed = (record.getMessage() for record in caplog.records if record.levelno > 20)
        assert empty.startswith("chats: nothing is said in 1 of 2001 rows (row 7)")
        assert changed.startswith("chats, rows 0, 999, 1000, 1500, 2000: the chat template leaves ")


def test_rows_are_looked_at_again_where_anything_is_new(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0

    def counted(self: Inspector, row: Any, faults: Any = Inspector.faults) -> Any:
        nonlocal looked
        looked += 1
        return faults(self, row)

    def looks(table: Dataset, **options: Any) -> int:
        before = looked
        chat.check_conversations(table, tokenizer, "chats", **options)
        return looked - before

    monkeypatch.setattr(Inspector, "faults", counted)
    table = kept(rows(USER), tmp_path)
    assert looks(table) == ROWS
    assert looks(table) == 0
    assert looks(table.select(range(100))) == 100
    assert looks(table, masks=True) == ROWS
    assert looks(table, control_tokens=False) == ROWS
    monkeypatch.setattr(tokenizer, "chat_template", tokenizer.chat_template + " ")
    assert looks(table) == ROWS
    monkeypatch.setattr(tokenizer, "get_added_vocab", lambda: {"<new>": 1})
    assert looks(table) == ROWS
    monkeypatch.setattr(row_findings, "_code", lambda: "other code")
    assert looks(table) == ROWS
    monkeypatch.setattr(type(table), "format", {"type": "custom"})
    assert looks(table) == ROWS


def _writes_itself(tokenizer: Any, *args: Any, **kwargs: Any) -> Any:
    return PreTrainedTokenizerBase.apply_chat_template(tokenizer, *args, **kwargs)


@pytest.mark.parametrize("who", ["tools", "class", "object"])
def test_nothing_is_kept_of_what_may_depend_on_more_than_is_known(
    who: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Inspector(tokenizer, None).key() is not None
    if who == "class":
        monkeypatch.setattr(type(tokenizer), "apply_chat_template", _writes_itself)
    elif who == "object":
        monkeypatch.setattr(tokenizer, "apply_chat_template", _writes_itself)
    assert Inspector(tokenizer, None, [] if who == "tools" else None).key() is None


def test_trainer_tools_are_asked_for_where_none_were_before(tokenizer: Any, tmp_path: Path) -> None:
    definition = {"type": "function", "function": {"name": "f", "description": "d"}}
    written = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tools }}"
    data = [{"prompt": [USER], "tools": json.dumps([definition])}]
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = written
    table = kept(data, tmp_path)
    chat.check_conversations(table, plain, "chats")
    with pytest.raises(DataError, match=r"^chats, row 0: the column tools has definitions, and"):
        chat.check_conversations(table, plain, "chats", tools=[])


def test_a_transform_is_followed_by_several_processes(tokenizer: Any, tmp_path: Path) -> None:
    said = [USER, ANSWER]
    table = kept(rows(), tmp_path).with_transform(lambda batch: {"messages": [said] * 2})
    table = table.select(range(2))
    chat.check_conversations(table, tokenizer, "chats", processes=2)
    said[0] = CONTROL
    with pytest.raises(DataError, match=r"^chats, rows 0, 1: the user text contains"):
        chat.check_conversations(table, tokenizer, "chats", processes=2)


@BOTH
def test_a_torn_file_is_not_read_as_nothing_found(processes: int | None, tmp_path: Path) -> None:
    def look(row: Any) -> list[list[str]]:
        return [["odd"]] if row["messages"][0]["role"] is None else []

    def found() -> list[int]:
        findings = row_findings.find(table, ["messages"], look, key="odd", processes=processes)
        return [number for number, _ in findings]

    def is_read(part: bytes) -> bool:
        try:
            return bool(pa.ipc.open_stream(part).read_all().schema)
        except (OSError, pa.ArrowInvalid):
            return False

    table = kept(rows(NAMELESS), tmp_path)
    assert found() == [*PLACES]
    file = sorted(tmp_path.rglob("cache-*.arrow"))[-1]
    whole = file.read_bytes()
    cuts = [cut for cut in range(0, len(whole) - 8, 8) if is_read(whole[:cut])]
    assert cuts
    for cut in (0, 100, *cuts):
        file.unlink()  # the old one is still mapped
        file.write_bytes(whole[:cut])
        assert found() == [*PLACES]


def test_a_row_that_can_be_rendered_by_now_is_refused_for_its_fault(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_findings, "find", lambda *args, **options: [(0, [])])
    table = Dataset.from_list(rows(CONTROL, places=(0,)))
    with pytest.raises(DataError, match=r"^chats, row 0: the user text contains"):
        chat.check_conversations(table, tokenizer, "chats")


def test_what_formats_a_row_is_shown_its_own_columns_alone(tmp_path: Path) -> None:
    shown = []

    def join(row: dict[str, Any]) -> str:
        shown.append([*row])
        return " ".join(row.values())

    config = trl_deepseek.SFTConfig(
        output_dir=str(tmp_path), report_to=[], bf16=False, use_cpu=True
    )
    table = Dataset.from_list([{"title": "one", "body": "two"}])
    trl_deepseek.SFTTrainer("tiny-deepseek-llm", config, train_dataset=table, formatting_func=join)
    assert shown
    assert all(columns == ["title", "body"] for columns in shown)


def test_a_trainer_looks_with_as_many_processes_as_it_prepares_with(tmp_path: Path) -> None:
    config = trl_deepseek.SFTConfig(
        output_dir=str(tmp_path), chat_template="deepseek-v3", dataset_num_proc=2, report_to=[],
        bf16=False, use_cpu=True,
    )  # fmt: skip
    table = kept(rows(CONTROL, places=(2000,)), tmp_path)
    with pytest.raises(DataError, match=r"^train_dataset, row 2000: the user"):
        trl_deepseek.SFTTrainer("tiny-deepseek-llm", config, train_dataset=table)
    assert [*tmp_path.rglob("cache-*_00001_of_00002.arrow")]  # what the second process found


PAIR = {"prompt": [USER], "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "b"}]}


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("SFT", {"messages": [USER, ANSWER]}),
        ("SFT", {"instruction": "q", "output": "a"}),
        (
            "SFT",
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        ),
        ("DPO", PAIR),
        ("Reward", PAIR),
    ],
)
def test_a_second_run_makes_nothing_anew(kind: str, row: dict[str, Any], tmp_path: Path) -> None:
    trainer, config = (getattr(trl_deepseek, f"{kind}{what}") for what in ("Trainer", "Config"))
    table = kept([row] * 3, tmp_path)
    made = []
    for _ in range(2):
        args = config(
            output_dir=str(tmp_path / "out"), chat_template="deepseek-v3", report_to=[], bf16=False,
            use_cpu=True,
        )  # fmt: skip
        trainer("tiny-deepseek-llm", args=args, train_dataset=table)
        made.append({f: f.stat().st_mtime_ns for f in tmp_path.rglob("cache-*.arrow")})
    assert made[0]
    assert made[0] == made[1]
