from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek import Registry, generation, models
from trl_deepseek.cli.main import main

TINY = "tiny-deepseek-llm"
SHORT = ["--max_samples", "4", "--max_new_tokens", "4"]


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Any, str]:
    code = main(["evaluate", *words, *SHORT, "--json"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return json.loads(shown.out), shown.err


def test_the_object_that_is_printed_is_as_promised(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    printed, _ = run(
        capsys,
        *("--models", TINY, TINY, "--dataset_name", "arithmetic"),
        *("--metrics", "exact_match", "perplexity", "pass_at_k"),
        *("--num_samples", "2", "--metric_kwargs", '{"pass_at_k": {"k": [1, 2]}}'),
        *("--output_dir", str(out)),
    )
    labels = ["exact_match", "perplexity", "pass_at_k/1", "pass_at_k/2"]
    assert list(printed) == ["models", "differences"]
    assert [each["name"] for each in printed["models"]] == [TINY, f"{TINY} (2)"]
    for each in printed["models"]:
        assert list(each["metrics"]) == labels
        for numbers in each["metrics"].values():
            assert list(numbers) == ["value", "low", "high", "count"]
            assert numbers["low"] <= numbers["value"] <= numbers["high"]
            assert numbers["count"] == 4
    assert [each["metric"] for each in printed["differences"]] == labels
    for each in printed["differences"]:
        assert list(each) == ["metric", "a", "b", "value", "low", "high"]
        assert each["value"] == each["low"] == each["high"] == 0.0
    assert json.loads((out / "evaluation.json").read_text()) == printed
    assert {path.name for path in out.iterdir()} == {
        *("evaluation.json", "samples.parquet", "values.parquet")
    }


def test_people_see_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--models", TINY, "--dataset_name", "arithmetic", "--metrics", "exact_match"]
    assert main(["evaluate", *words, *SHORT]) == 0
    shown = capsys.readouterr().out
    assert "exact_match" in shown
    assert "0 [0, 0] (4)" in shown


@pytest.mark.parametrize("name", ["rows.jsonl", "folder"])
def test_the_only_split_is_taken_whole_and_that_is_said(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for file in ("rows.jsonl", "folder/train.jsonl"):
        rows = [{"prompt": f"{n}+1=", "answer": str(n + 1)} for n in range(6)]
        Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["--models", TINY, "--metrics", "exact_match", "--columns", "answer=solution"]
    printed, said = run(capsys, "--dataset_name", name, *words)
    assert printed["models"][0]["metrics"]["exact_match"]["count"] == 4
    assert "taken whole" in said
    assert "the first 4 of 6 rows" in said


def test_the_test_split_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for split, count in (("train", 4), ("test", 2)):
        rows = [{"prompt": "1+1=", "solution": "2"}] * count
        Path("folder", f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    words = ["--models", TINY, "--metrics", "exact_match", "--dataset_name", "folder"]
    for more, count in ([], 2), (["--dataset_split", "train"], 4):
        printed, _ = run(capsys, *words, *more)
        assert printed["models"][0]["metrics"]["exact_match"]["count"] == count


def test_a_reward_model_is_measured_by_what_it_prefers(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    language_model, tokenizer = generation.load(TINY, registry)
    judge = models.as_reward_model(language_model)
    judge.save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    name = str(tmp_path / "judge")
    words = ["--models", name, "--dataset_name", "arithmetic", "--metrics"]
    printed, _ = run(capsys, *words, "preference_accuracy")
    assert printed["models"][0]["metrics"]["preference_accuracy"]["count"] == 4
    assert main(["evaluate", *words, "exact_match"]) == 2
    assert "is a reward model, which answers nothing" in capsys.readouterr().err
