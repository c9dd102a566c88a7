"""Columns under other names, and several datasets as one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl import DatasetMixtureConfig, get_dataset

from trl_deepseek import data, load_registry
from trl_deepseek.data import demonstrations
from trl_deepseek.errors import ConfigError, DataError

REGISTRY = load_registry()
ROWS = Dataset.from_list([{"question": "1+1=", "answer": "2", "id": 7}])


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """Writes rows to a file; its path."""

    def write(name: str, count: int, **columns: Any) -> str:
        path = tmp_path / name
        rows = [{"prompt": f"{name} {i}", "completion": "2", **columns} for i in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def mix(*parts: dict[str, Any], **options: Any) -> Any:
    return data.mix(parts, REGISTRY, kind="demonstrations", **options)


@pytest.mark.parametrize("stream", [False, True])
def test_columns_are_renamed_and_may_change_places(stream: bool) -> None:
    rows: Any = ROWS.to_iterable_dataset() if stream else ROWS
    mapping = data.column_mapping(["question=prompt", "answer=completion"])
    found = next(iter(data.rename_columns(rows, mapping, "rows.jsonl")))
    assert found == {"prompt": "1+1=", "completion": "2", "id": 7}
    swapped = data.rename_columns(rows, {"question": "answer", "answer": "question"}, "rows.jsonl")
    assert next(iter(swapped)) == {"question": "2", "answer": "1+1=", "id": 7}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            {"query": "prompt"},
            "rows.jsonl has no column 'query' to rename\n  columns found: question, answer, id",
        ),
        (
            {"question": "answer"},
            "rows.jsonl: columns 'question' and 'answer' would both be called 'answer'\n"
            "  rename the other one too: answer=other_answer",
        ),
        (
            {"question": "prompt", "answer": "prompt"},
            "rows.jsonl: columns 'question' and 'answer' would both be called 'prompt'\n"
            "  rename the other one too: prompt=other_prompt",
        ),
    ],
)
def test_an_unknown_or_colliding_column_is_refused(mapping: dict[str, str], message: str) -> None:
    with pytest.raises(DataError) as caught:
        data.rename_columns(ROWS, mapping, "rows.jsonl")
    assert str(caught.value) == message


@pytest.mark.parametrize("item", ["question", "question=", "=prompt"])
def test_what_is_not_old_is_new_is_refused(item: str) -> None:
    with pytest.raises(ConfigError, match="is not old=new"):
        data.column_mapping([item])


def test_datasets_follow_one_another_as_in_trl(file: Callable[..., str]) -> None:
    a, b = file("a.jsonl", 3), file("b.jsonl", 2)
    found = mix({"path": a}, {"path": "json", "data_files": b, "split": "train[:1]"})
    assert [row["prompt"] for row in found] == [*(f"a.jsonl {i}" for i in range(3)), "b.jsonl 0"]
    assert data.source_of(found, "") == f"{a} + json"


def test_fractions_give_the_rows_that_trl_takes(file: Callable[..., str]) -> None:
    a, b = file("a.jsonl", 9), file("b.jsonl", 4)
    shares = ((a, 0.6), (b, 0.4))
    theirs = get_dataset(
        DatasetMixtureConfig(
            datasets=[{"path": "json", "data_files": f, "fraction": s} for f, s in shares]
        )
    )["train"]
    ours = mix(*({"path": f, "fraction": s} for f, s in shares))
    assert ours.to_list() == theirs.to_list()
    assert len(ours) == 10


@pytest.mark.parametrize("streaming", [False, True])
def test_weights_are_chances_and_repeat_no_row(file: Callable[..., str], streaming: bool) -> None:
    parts = [
        {"path": file("a.jsonl", 300), "weight": 3},
        {"path": file("b.jsonl", 300), "weight": 1},
    ]
    prompts = [row["prompt"] for row in mix(*parts, streaming=streaming)]
    assert len(prompts) == len(set(prompts))
    first = sum(prompt.startswith("a") for prompt in prompts)
    assert first == 300
    # 300 of 400 expected; the standard deviation of the others is 11.5
    assert 50 < len(prompts) - first < 150


def test_columns_are_selected_or_renamed_so_that_parts_are_alike(file: Callable[..., str]) -> None:
    a, b = file("a.jsonl", 1), file("b.jsonl", 1, source="web")
    with pytest.raises(DataError) as caught:
        mix({"path": a}, {"path": b})
    assert str(caught.value).startswith(
        f"datasets: {a} has the columns completion, prompt, and {b} has completion, prompt, source"
    )
    assert len(mix({"path": a}, {"path": b, "columns": ["prompt", "completion"]})) == 2
    mapping = {"source": "prompt", "completion": "completion"}
    assert mix({"path": a}, {"path": b, "columns": mapping})[1]["prompt"] == "web"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "datasets: the list is empty"),
        (["rows.jsonl"], "datasets: item 1 is 'rows.jsonl', not a mapping with path"),
        ([{"name": "main"}], "datasets: item 1 has no path"),
        ([{"path": "arithmetic", "weigth": 1}], "datasets: item 1: unknown key 'weigth'"),
        (
            [{"path": "arithmetic", "weight": 1}, {"path": "arithmetic"}],
            "datasets: arithmetic: weight is None; give every dataset a positive weight, or none",
        ),
        ([{"path": "arithmetic", "fraction": 0}], "datasets: arithmetic: fraction is 0; give"),
        (
            [{"path": "arithmetic", "fraction": 1, "weight": 1}],
            "datasets: fraction does not go together with weight; use weight alone",
        ),
    ],
)
def test_a_mixture_that_says_something_else_is_refused(parts: list[Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        data.mix(parts, REGISTRY, kind="prompts")
    assert str(caught.value).startswith(message)


def test_a_file_is_held_out_whole_and_a_dataset_by_its_split(file: Callable[..., str]) -> None:
    name = file("held_out.jsonl", 3)
    assert len(data.load_held_out(name, REGISTRY, kind="demonstrations")) == 3
    held_out = data.load_held_out("arithmetic", REGISTRY, kind="prompts", size=4)
    assert held_out.to_list() == REGISTRY.datasets["arithmetic"]("test", "prompts", 4).to_list()


def test_in_a_csv_file_only_a_blank_is_missing_and_answers_are_text(tmp_path: Path) -> None:
    path = tmp_path / "sums.csv"
    path.write_text("prompt,completion,count,score\n1+1,2,1,0.5\n1+2,NA,,\nNone,3,3,1.5\n")
    rows = data.load(str(path), REGISTRY, kind="demonstrations")
    assert rows["prompt"][:] == ["1+1", "1+2", "None"]
    assert rows["completion"][:] == ["2", "NA", "3"]
    assert rows["count"][:] == [1, None, 3]
    assert rows["score"][:] == [0.5, None, 1.5]


def test_a_blank_among_numbers_is_blamed_on_its_row(tmp_path: Path) -> None:
    path = tmp_path / "sums.csv"
    path.write_text("prompt,completion\n1+1,2\n1+2,3\n1+3,\n")
    rows = data.load(str(path), REGISTRY, kind="demonstrations")
    with pytest.raises(DataError, match="row 2: column 'completion' holds nothing, not text"):
        demonstrations.prepare(rows, name=str(path))
