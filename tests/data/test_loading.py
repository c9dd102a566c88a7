from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from trl_deepseek import data, load_registry
from trl_deepseek.data.loading import load_files
from trl_deepseek.errors import DataError

ROWS = [{"prompt": "1+1", "solution": "2"}, {"prompt": "2+2", "solution": "4"}]


def write_jsonl(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def write_json(path: Path) -> Path:
    path.write_text(json.dumps(ROWS))
    return path


def write_csv(path: Path) -> Path:
    path.write_text("prompt,solution\n1+1,2\n2+2,4\n")
    return path


def write_parquet(path: Path) -> Path:
    from datasets import Dataset

    Dataset.from_list(ROWS).to_parquet(str(path))
    return path


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.jsonl", write_jsonl),
        ("rows.json", write_json),
        ("rows.csv", write_csv),
        ("rows.parquet", write_parquet),
    ],
    ids=["jsonl", "json", "csv", "parquet"],
)
def test_each_kind_of_file_gives_its_rows(tmp_path: Path, name: str, write: object) -> None:
    assert callable(write)
    file = write(tmp_path / name)
    rows = data.load(str(file), load_registry(), kind="prompts").to_list()
    assert [row["prompt"] for row in rows] == ["1+1", "2+2"]
    assert [str(row["solution"]) for row in rows] == ["2", "4"]


@pytest.mark.parametrize(
    ("name", "write"),
    [("rows.jsonl", write_jsonl), ("rows.csv", write_csv), ("rows.parquet", write_parquet)],
    ids=["jsonl", "csv", "parquet"],
)
def test_a_streamed_file_gives_the_same_rows(tmp_path: Path, name: str, write: object) -> None:
    assert callable(write)
    file = str(write(tmp_path / name))
    stream = data.load(file, load_registry(), kind="prompts", streaming=True)
    assert not hasattr(stream, "__len__")
    assert list(stream) == data.load(file, load_registry(), kind="prompts").to_list()


def test_a_file_that_another_was_copied_over_has_the_new_rows(tmp_path: Path) -> None:
    path, seen = tmp_path / "rows.jsonl", []
    for prompt in ("1+1", "1*1"):  # of one size
        path.write_text(json.dumps({"prompt": prompt}))
        os.utime(path, (1e9, 1e9))
        seen.append(data.load(str(path), load_registry(), kind="prompts")[0]["prompt"])
    assert seen == ["1+1", "1*1"]


def test_files_of_a_folder_or_a_mixture_that_were_copied_over_have_the_new_rows(
    tmp_path: Path,
) -> None:
    path, registry, seen = tmp_path / "train.jsonl", load_registry(), []
    for prompt in ("1+1", "1*1"):  # of one size
        path.write_text(json.dumps({"prompt": prompt}))
        os.utime(path, (1e9, 1e9))
        ways = [{"data_files": str(path)}, {"data_files": [str(tmp_path / "*.jsonl")]}]
        ways += [{"data_files": {"train": "train.jsonl"}, "data_dir": str(tmp_path)}]
        read = [load_files("json", None, "train", False, **way) for way in ways]
        read.append(data.load(str(tmp_path), registry, kind="prompts"))
        seen.append([rows[0]["prompt"] for rows in read])
    assert seen == [["1+1"] * 4, ["1*1"] * 4]


def test_an_embedded_dataset_is_streamed_too() -> None:
    registry = load_registry()
    stream = data.load("arithmetic", registry, kind="prompts", size=3, streaming=True)
    assert list(stream) == data.load("arithmetic", registry, kind="prompts", size=3).to_list()


def test_a_folder_gives_its_splits(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl")
    (tmp_path / "test.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    registry = load_registry()
    assert len(data.load(str(tmp_path), registry, kind="prompts")) == 2
    assert len(data.load(str(tmp_path), registry, kind="prompts", split="test")) == 1


def test_an_embedded_dataset_is_found_by_name() -> None:
    rows = data.load("arithmetic", load_registry(), kind="prompts", size=3, seed=1)
    assert rows.column_names == ["prompt", "solution"]
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "data file '{file}' does not exist"),
        ("a.jsonl", "", "data file '{file}' is empty"),
        ("a.jsonl", "\n \n", "data file '{file}' has no rows"),
        (
            "a.jsonl",
            '{"prompt": "a"}\n\n{"prompt": \n',
            '{file}:3: not valid JSON: Expecting value (column 12)\n  {{"prompt":',
        ),
        ("a.jsonl", "[1]\n", "{file}:1: a row must be a JSON object, this is [1]"),
        ("a.json", "{", "data file '{file}' cannot be read: "),
        ("a.parquet", "PAR0", "data file '{file}' cannot be read: "),
        (
            "a.txt",
            "hello",
            "data file '{file}' has an unknown ending '.txt'\n"
            "  known: .jsonl, .json, .csv, .parquet",
        ),
    ],
    ids=["missing", "empty", "blank", "broken-line", "not-object", "json", "parquet", "ending"],
)
def test_a_bad_file_is_refused_with_its_name_and_line(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError) as caught:
        data.load(str(file), load_registry(), kind="prompts")
    assert str(caught.value).startswith(message.format(file=file))


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"prompt": "\xff"}\n')
    with pytest.raises(DataError, match="is not UTF-8"):
        data.load(str(file), load_registry(), kind="prompts")


def test_a_file_has_no_test_split(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="name a folder that contains"):
        data.load(str(file), load_registry(), kind="prompts", split="test")


def test_a_name_that_is_nothing_is_refused_with_the_embedded_ones() -> None:
    with pytest.raises(DataError, match=r"no embedded dataset \(.*arithmetic.*\)"):
        data.load("no-such/dataset", load_registry(), kind="prompts")


def test_a_missing_column_is_named_with_who_needs_it() -> None:
    rows = data.load("arithmetic", load_registry(), kind="prompts", size=1)
    with pytest.raises(DataError) as caught:
        data.require_columns(rows, ["prompt", "chosen"], "prefs.jsonl", "DPO")
    assert str(caught.value) == (
        "prefs.jsonl has no column 'chosen', which DPO needs\n  columns found: prompt, solution"
    )
