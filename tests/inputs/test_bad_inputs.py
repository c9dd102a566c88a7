"""Every kind of wrong input: exit code 2, one message as written here, nothing loaded or written.

The table is ``bad_inputs.yaml``. Each entry has a command with ``options``, or a config (``yaml``)
or recipe (``recipe``); a ``row`` is the second of three of its ``kind``, changed by what is given;
``files`` lie beside it, and ``bare`` commands get no model and no data. What it ``says`` is the
whole message behind the command's name, with DIR for the folder; ``matrix`` is one more of a kind.
"""

from __future__ import annotations

import functools
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from trl_deepseek import generation, plugin_loading
from trl_deepseek.adapters import merging
from trl_deepseek.cli import run
from trl_deepseek.cli.main import main
from trl_deepseek.jobs.job import Job

TABLE: list[dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("bad_inputs.yaml").read_text(encoding="utf-8")
)
ASK = [{"role": "user", "content": "1+1"}]
TWO = [{"role": "assistant", "content": "2"}]
THREE = [{"role": "assistant", "content": "3"}]
ROWS: dict[str, dict[str, Any]] = {
    "chat": {"messages": [*ASK, *TWO]},
    "completion": {"prompt": "1+1=", "completion": "2"},
    "alpaca": {"instruction": "1+1", "input": "", "output": "2"},
    "sharegpt": {"conversations": [{"from": "human", "value": "1"}, {"from": "gpt", "value": "2"}]},
    "text": {"text": "1+1=2"},
    "tokens": {"input_ids": [5, 6, 7]},
    "labelled tokens": {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
    "pair": {"prompt": ASK, "chosen": TWO, "rejected": THREE},
    "implicit": {"chosen": [*ASK, *TWO], "rejected": [*ASK, *THREE]},
    "single": {"prompt": ASK, "completion": TWO, "label": True},
    "prompt": {"prompt": ASK, "solution": "2"},
}
KINDS = {"sft": "chat", "preference": "pair", "dpo": "pair", "kto": "single", "reward": "pair"}


@functools.cache
def installed() -> Any:
    return tuple(plugin_loading_installed())


plugin_loading_installed = plugin_loading._installed


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A folder to work in, in which nothing is to be written, and where no model may be loaded."""

    def not_yet(*_: object, **__: object) -> None:
        raise AssertionError("a model was about to be loaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugin_loading, "_installed", lambda: list(installed()))
    monkeypatch.setattr(Job, "build", not_yet)
    monkeypatch.setattr(run, "_carry_out", not_yet)
    monkeypatch.setattr(merging, "merge", not_yet)
    monkeypatch.setattr(generation, "load", not_yet)
    Path("out").mkdir()
    Path("out/mine.txt").write_text("keep")
    return tmp_path


def words_of(case: dict[str, Any]) -> list[str]:
    """Write the files of a case; the command line that it stands for."""
    for name, text in (case.get("files") or {}).items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    words = [case["command"], *shlex.split(case.get("options") or "")]
    if "recipe" in case:
        Path("chats.jsonl").write_text((json.dumps(ROWS["chat"]) + "\n") * 3)
        Path("recipe.yaml").write_text(case["recipe"], encoding="utf-8")
        return [*words, "recipe.yaml"]
    if case.get("bare"):
        return words
    data = "arithmetic"
    if "row" in case or "kind" in case:
        good = ROWS[case.get("kind") or KINDS.get(case["command"], "prompt")]
        rows = [good, {**good, **(case.get("row") or {})}, good]
        rows[1] = {key: value for key, value in rows[1].items() if value != "(none)"}
        rows = [rows[1]] * 3 if case.get("all") else rows
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = "rows.jsonl"
    if "yaml" in case:
        Path("run.yaml").write_text(case["yaml"], encoding="utf-8")
        words += ["--config", "run.yaml"]
    defaults = {"model_name_or_path": "tiny-deepseek-llm", "dataset_name": data}
    if case["command"] == "grpo":
        defaults["reward_funcs"] = "exact_match"
    if case["command"] == "evaluate":
        defaults["models"] = defaults.pop("model_name_or_path")
        defaults["metrics"] = "exact_match"
    for option, value in defaults.items():
        if f"--{option}" not in words and f"{option}:" not in case.get("yaml", ""):
            words += [f"--{option}", value]
    return words if "output_dir" in str(case) else [*words, "--output_dir", "out"]


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case["id"], marks=[pytest.mark.matrix] * ("matrix" in case))
        for case in TABLE
    ],
)
def test_a_wrong_input_is_one_message(
    case: dict[str, Any], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(case)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    code = main(words)
    shown = capsys.readouterr()
    said = shown.err.rpartition(f"trl-deepseek {case['command']}: ")[2]
    said = said.removesuffix("\n").replace(str(place), "DIR")
    assert (code, said, shown.out) == (2, case["says"], "")
    after = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    after = {p: t for p, t in after.items() if "__pycache__" not in p.parts}
    assert after.keys() == before.keys()
    assert Path("out/mine.txt").read_text() == "keep"


def test_the_table_has_what_is_asked_of_it() -> None:
    ids = [case["id"] for case in TABLE]
    assert len(ids) == len(set(ids)) >= 150
    assert sum("matrix" not in case for case in TABLE) >= 150
