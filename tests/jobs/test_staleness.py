"""What an edit makes stale: that stage and those that use it, by name of what has changed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from trl_deepseek.cli import run
from trl_deepseek.jobs.progress import Progress
from trl_deepseek.jobs.recipe import Recipe, read

ROW = '{"prompt": "1+1=", "completion": "2"}\n'
REWARD = """
from trl_deepseek import hookimpl

@hookimpl
def register_rewards(register):
    register("polite", polite)

def polite(completions, **_):
    return [1.0 for _ in completions]
"""


def stages() -> list[dict[str, Any]]:
    """Two models that do not know of each other, and what is made of each."""
    first = {"command": "sft", "name": "first", "dataset_name": "first.jsonl"}
    second = {**first, "name": "second", "dataset_name": "second.jsonl"}
    second["model_name_or_path"] = "tiny-deepseek-llm"
    taught: dict[str, Any] = {"command": "grpo", "name": "taught", "model_name_or_path": "first"}
    taught |= {"dataset_name": "arithmetic", "reward_funcs": ["polite", "functions.py:short"]}
    scored = {"command": "reward", "name": "scored", "model_name_or_path": "second"}
    return [first, second, taught, {**scored, "dataset_name": "arithmetic"}]


Run = Callable[..., dict[str, list[str]]]


@pytest.fixture
def stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Which stages are stale after an edit, where all of them had been run before; then all are."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        Path(f"{name}.jsonl").write_text(ROW)
    Path("polite.py").write_text(REWARD)
    Path("functions.py").write_text("def short(completions, **_):\n    return [0.0]\n")

    def recipe(given: list[dict[str, Any]]) -> tuple[Recipe, Progress, dict[str, Any]]:
        shared = {"output_dir": "out", "model_name_or_path": "tiny-deepseek-llm"}
        text = yaml.safe_dump({**shared, "plugins": ["polite.py"], "stages": given})
        Path("recipe.yaml").write_text(text)
        found = read("recipe.yaml", run.check_names)
        parsed = {stage.name: run._parse(stage, found) for stage in found.stages}
        progress = Progress(found)
        progress.check(found)
        return found, progress, run._made_from(found, parsed, progress)

    def carry_out(given: list[dict[str, Any]]) -> dict[str, list[str]]:
        found, progress, made = recipe(given)
        reasons = progress.stale(found, made)
        for stage in found.stages:
            if stage.name in reasons:
                progress.set_aside(stage)
            if not progress.is_done(stage):
                progress.begin(stage, made[stage.name])
                Path(stage.output_dir).mkdir()
                progress.end(stage, 1.0, None)
        return reasons

    assert carry_out(stages()) == {}
    return carry_out


def test_nothing_is_stale_where_nothing_was_edited(stale: Run) -> None:
    assert stale(stages()) == {}
    os.utime("first.jsonl")
    assert stale(stages()) == {}


def test_an_option_makes_its_stage_stale_and_what_uses_it(stale: Run) -> None:
    edited = stages()
    edited[0]["learning_rate"] = 1e-3
    assert stale(edited) == {
        "first": ["learning_rate was not given, now 0.001"],
        "taught": ["it uses stage 'first', which is run anew"],
    }
    assert stale(edited) == {}
    assert sorted(path.name for path in Path("out/replaced").iterdir()) == ["first-1", "taught-1"]
    edited[3]["max_steps"] = 3
    assert list(stale(edited)) == ["scored"]


def test_how_a_run_is_logged_makes_nothing_stale(stale: Run) -> None:
    assert stale([{**stage, "logging_steps": 7, "report_to": "none"} for stage in stages()]) == {}


def test_a_data_file_makes_stale_what_reads_it_and_what_uses_that(stale: Run) -> None:
    Path("second.jsonl").write_text(ROW * 2)
    assert stale(stages()) == {
        "second": ["second.jsonl has changed"],
        "scored": ["it uses stage 'second', which is run anew"],
    }
    Path("first.jsonl").unlink()  # which nothing can be made from any more
    assert stale(stages()) == {}


@pytest.mark.parametrize(
    ("file", "said"),
    [("polite.py", "plugin 'polite' has changed"), ("functions.py", "functions.py has changed")],
)
def test_a_plugin_makes_stale_what_uses_a_name_of_it(stale: Run, file: str, said: str) -> None:
    Path(file).write_text(Path(file).read_text() + "\n# edited\n")
    assert stale(stages()) == {"taught": [said]}


def test_a_stage_that_was_run_anew_by_itself_makes_stale_what_uses_it(
    stale: Run, tmp_path: Path
) -> None:
    Path("out/first").rmdir()
    assert stale(stages()) == {"taught": ["it uses stage 'first', which is run anew"]}


def test_a_run_that_was_killed_between_two_stale_stages_knows_of_the_second(stale: Run) -> None:
    edited = stages()
    edited[0]["seed"] = 1
    found = read("recipe.yaml", run.check_names)
    progress = Progress(found)
    progress.set_aside(found.stages[0])
    assert list(stale(edited)) == ["taught"]


def test_another_command_under_the_same_name_makes_the_stage_stale(stale: Run) -> None:
    edited = stages()
    edited[3] |= {"command": "preference"}
    assert stale(edited) == {"scored": ["command was reward, now preference"]}
