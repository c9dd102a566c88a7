"""What a recipe settles before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from trl_deepseek.cli.run import check_names
from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs.progress import Progress
from trl_deepseek.jobs.recipe import Recipe, read
from trl_deepseek.yaml_files import write_mapping

SFT = {"command": "sft", "dataset_name": "arithmetic"}
REWARD = {"command": "reward", "dataset_name": "arithmetic"}
GRPO = {"command": "grpo", "reward_funcs": ["exact_match", "model:{reward}"]}
MERGE = {"command": "merge"}


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    def write(*stages: Any, **more: Any) -> Recipe:
        values = {"output_dir": "out", "model_name_or_path": "base", "stages": list(stages)}
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump({**values, **more}))
        return read(str(file), check_names)

    return write


def models(recipe: Recipe) -> list[Any]:
    return [s.options.get("model_name_or_path", s.options.get("adapter")) for s in recipe.stages]


def test_a_stage_starts_from_the_policy_before_it_and_never_from_a_reward_model(
    recipe: Any,
) -> None:
    found = recipe(SFT, REWARD, GRPO)
    assert models(found) == ["base", "out/sft", "out/sft"]
    assert [stage.output_dir for stage in found.stages] == ["out/sft", "out/reward", "out/grpo"]
    assert {stage.base for stage in found.stages} == {"base"}


def test_a_name_in_braces_is_the_folder_of_that_stage(recipe: Any) -> None:
    first, _, last = recipe(
        {**SFT, "name": "cold-start"}, REWARD, {**GRPO, "model_name_or_path": "{cold-start}"}
    ).stages
    assert last.options["model_name_or_path"] == first.output_dir == "out/cold-start"
    assert last.options["reward_funcs"] == ["exact_match", "model:out/reward"]
    assert last.folders == {"out/cold-start", "out/reward"}


def test_a_merge_takes_the_adapter_before_it_and_is_what_follows_starts_from(recipe: Any) -> None:
    for adapter in ({"qlora": True}, {"use_peft": True}, {"quantization": "int8"}):
        found = recipe({**SFT, **adapter}, MERGE, {**SFT, "name": "more"})
        assert models(found) == ["base", "out/sft", "out/merge"]


def test_a_name_that_is_null_is_none(recipe: Any) -> None:
    (stage,) = recipe({**SFT, "name": None}).stages
    assert (stage.name, stage.output_dir) == ("sft", "out/sft")


def test_truth_keeps_its_spelling_where_a_stage_is_written_down(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "output_dir: out\nmodel_name_or_path: base\nreport_to: off\n"
        "stages:\n  - {command: sft, dataset_name: arithmetic, run_name: no}\n"
    )
    (stage,) = read(str(file), check_names).stages
    write_mapping(tmp_path / "sft.yaml", stage.options)
    written = (tmp_path / "sft.yaml").read_text()
    assert "report_to: off\n" in written
    assert "run_name: no\n" in written


def test_options_beside_the_stages_are_those_of_every_training_stage(recipe: Any) -> None:
    found = recipe({**SFT, "seed": 7}, {**SFT, "name": "more", "qlora": True}, MERGE, seed=3)
    assert [stage.options.get("seed") for stage in found.stages] == [7, 3, None]


@pytest.mark.parametrize(
    ("stages", "more", "said"),
    [
        (["sft"], {}, "stage 1 has no command"),
        ([{"command": "sfx"}], {}, "stage 1 has an unknown command"),
        ([], {}, "stages is empty"),
        ([SFT], {"stages": {"sft": {}}}, "stages is a list"),
        ([SFT], {"output_dir": None}, "output_dir is missing"),
        ([SFT], {"model_name_or_path": None}, "stage 'sft': model_name_or_path is missing"),
        ([SFT, SFT], {}, "stage 'sft': the name is there twice"),
        ([{**SFT, "name": "a/b"}], {}, "stage 'a/b': a name is letters"),
        (
            [GRPO],
            {},
            r":\d+: stage 'grpo': reward_funcs: \{reward\} is no earlier stage; this is the first",
        ),
        ([SFT, GRPO], {}, r"\{reward\} is no earlier stage; there are sft"),
        ([{**SFT, "qlora": True}, GRPO | {"reward_funcs": ["x"]}], {}, "put '- command: merge'"),
        ([SFT, MERGE], {}, "stage 'merge': the stage before it is no stage that saves an adapter"),
        ([MERGE], {}, "stage 'merge': the stage before it is no stage that saves"),
        ([SFT, {**MERGE, "adapter": "x"}], {}, "stage 'merge': adapter 'x' is no stage that saves"),
        (
            [SFT],
            {"launcher": "no-such-launcher -n 2"},
            "launcher 'no-such-launcher -n 2' starts no",
        ),
        ([SFT], {"launcher": "sh 'x"}, "launcher: No closing quotation"),
        ([SFT], {"launcher": ["sh"]}, "starts no program"),
        ([{**SFT, "output_dir": "x"}], {}, "stage 'sft': output_dir is no option of a stage"),
        ([SFT], {"resume_from_checkpoint": True}, "resume_from_checkpoint is no option"),
    ],
)
def test_what_is_no_recipe_is_refused_with_the_stage_and_the_way_out(
    recipe: Any, stages: list[Any], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        recipe(*stages, **more)


def test_progress_survives_and_refuses_other_options_for_what_is_there(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = recipe(SFT, REWARD)
    first = Progress(found)
    first.check(found, None)
    for stage in found.stages:
        first.begin(stage)
        Path(stage.output_dir).mkdir()
    first.end(found.stages[0], 1.25, {"metrics": {}})
    again = Progress(found)
    again.check(found, None)
    assert [again.is_done(stage) for stage in found.stages] == [True, False]
    other = recipe({**SFT, "seed": 1}, REWARD)
    with pytest.raises(ConfigError, match="begun with other options: seed None, now 1"):
        again.check(other, None)
    again.check(other, "sft")
    again.forget(other, "sft")
    assert [path.name for path in Path("out").iterdir()] == ["pipeline.json"]


def test_an_output_folder_that_cannot_be_is_refused(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = recipe(SFT, output_dir=str(tmp_path / "file" / "out"))
    with pytest.raises(ConfigError, match="cannot be written: Not a directory"):
        Progress(found).begin(found.stages[0])


def test_a_folder_that_no_recipe_wrote_is_left_alone(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("out/sft").mkdir(parents=True)
    found = recipe(SFT)
    with pytest.raises(ConfigError, match="out/sft is there already"):
        Progress(found).check(found, None)
    with pytest.raises(ConfigError, match="out/sft is there already"):
        Progress(found).check(found, "sft")
