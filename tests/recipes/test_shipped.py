"""The recipes in ``examples/recipes`` run from end to end, each training for one step."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from trl_deepseek import load_registry
from trl_deepseek.cli import run
from trl_deepseek.cli.main import main
from trl_deepseek.types import DatasetKind

RECIPES = sorted((Path(__file__).parents[2] / "examples" / "recipes").glob("*.yaml"))
# What makes a stage small; only what it has is changed.
SMALL = {
    "max_steps": 1,
    "per_device_train_batch_size": 4,
    "num_generations": 2,
    "max_completion_length": 4,
    "max_new_tokens": 4,
    "warmup_steps": 0,
}
KINDS: dict[str, DatasetKind] = {
    "sft": "demonstrations",
    "preference": "preferences",
    "reward": "preferences",
    "grpo": "prompts",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, where the processes of stages are calls in this one."""

    def wait_for(command: list[str], _: Any) -> tuple[int, str]:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = main(command[command.index("trl_deepseek") + 1 :])
        return code, output.getvalue()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "wait_for", wait_for)
    return tmp_path


# The one of all kinds of stages stands for the others where time is short.
each = pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(path, marks=[pytest.mark.matrix] * (path.stem != "r1"), id=path.stem)
        for path in RECIPES
    ],
)


def small(recipe: Path) -> dict[str, Any]:
    """The recipe with the smallest of everything, and without a demand that chance cannot meet."""
    values = yaml.safe_load(recipe.read_text())
    cups = load_registry().datasets[values.pop("dataset_name")]
    for kind in KINDS.values():
        cups(kind=kind, size=64).to_json(f"{kind}.jsonl")
    for stage in values["stages"]:
        if stage.get("dataset_name", "") is not None:
            stage.setdefault("dataset_name", f"{KINDS.get(stage['command'], 'prompts')}.jsonl")
        stage |= {name: value for name, value in SMALL.items() if name in stage}
        if stage["command"] in ("sample", "evaluate"):
            stage["max_samples"] = 8
        if stage["command"] == "sample":  # from a model that has learned to come to an end
            stage |= {"max_new_tokens": 12, "num_samples": 4, "min_reward": None, "begin": ""}
    values["stages"][0] |= {"max_steps": 30, "per_device_train_batch_size": 16}
    return {**values, "save_strategy": "no"}


@each
def test_a_shipped_recipe_runs_from_end_to_end(
    recipe: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = small(recipe)
    Path("recipe.yaml").write_text(yaml.safe_dump(values))
    assert main(["run", "recipe.yaml", "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    names = [stage.get("name", stage["command"]) for stage in values["stages"]]
    assert list(stages) == names
    found = stages[names[-1]]["result"]
    assert [each["name"] for each in found["models"]] == [
        str(Path(values["output_dir"], name)) for name in values["stages"][-1]["models"]
    ]
    measured = list(found["models"][-1]["metrics"])
    assert len(measured) == len(values["stages"][-1]["metrics"])

    assert main(["run", "recipe.yaml"]) == 0  # what it shows at its end
    shown = capsys.readouterr()
    assert shown.err.count("done before") == len(names)
    assert f"what {values['stages'][-1]['models'][-1]} has more" in shown.out
    assert re.search(r"exact_match *│ *[\d.e-]+ \[[\d.e-]+, [\d.e-]+\] *│", shown.out)


@each
def test_a_shipped_recipe_passes_its_checks_as_it_stands(
    recipe: Path,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Reached(Exception):
        """All checks have been made."""

    def reached(*_: Any) -> None:
        raise Reached

    monkeypatch.setattr(run, "_carry_out", reached)
    with pytest.raises(Reached):
        main(["run", str(recipe), "--debug", "--output_dir", "elsewhere"])
    assert Path("elsewhere/pipeline.json").exists()
