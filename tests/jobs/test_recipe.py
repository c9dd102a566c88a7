"""What a recipe settles before anything runs."""

from __future__ import annotations

import re
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
    assert set(last.uses) == {"cold-start", "reward"}


def test_a_merge_takes_the_adapter_before_it_and_is_what_follows_starts_from(recipe: Any) -> None:
    for adapter in ({"qlora": True}, {"use_peft": True}, {"quantization": "int8"}):
        found = recipe({**SFT, **adapter}, MERGE, {**SFT, "name": "more"})
        assert models(found) == ["base", "out/sft", "out/merge"]


def test_the_bare_name_of_a_stage_is_what_it_made_where_that_is_asked_for(recipe: Any) -> None:
    drawn = {"command": "sample", "name": "drawn", "reward_funcs": ["model:reward"]}
    drawn |= {"dataset_name": "arithmetic"}
    more = {"command": "sft", "name": "more", "model_name_or_path": "base"}
    *_, sample, first, mixed, compared = recipe(
        SFT,
        REWARD,
        drawn,
        {**more, "dataset_name": "drawn", "run_name": "drawn"},
        {**more, "name": "mixed", "datasets": [{"path": "drawn"}, {"path": "./drawn"}]},
        {"command": "evaluate", "models": ["base", "sft", "more"], "dataset_name": "arithmetic"},
    ).stages
    assert sample.options["model_name_or_path"] == "out/sft"
    assert sample.options["output_file"] == "out/drawn/rows.jsonl"
    assert sample.options["reward_funcs"] == ["model:out/reward"]
    assert set(sample.uses) == {"sft", "reward"}
    assert first.options["dataset_name"] == "out/drawn/rows.jsonl"
    assert first.options["run_name"] == "drawn"
    assert [part["path"] for part in mixed.options["datasets"]] == [
        "out/drawn/rows.jsonl",
        "./drawn",
    ]
    assert [set(first.uses), set(mixed.uses)] == [{"drawn"}] * 2
    assert compared.options["models"] == ["base", "out/sft", "out/more"]
    assert set(compared.uses) == {"sft", "more"}


def test_the_recipe_of_the_page_is_one(repository: Path, tmp_path: Path) -> None:
    page = (repository / "docs" / "recipes.md").read_text()
    block = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert block is not None
    (tmp_path / "recipe.yaml").write_text(block[1])
    *_, compared = read(str(tmp_path / "recipe.yaml"), check_names).stages
    assert compared.options["models"] == [
        "deepseek-ai/deepseek-llm-7b-base",
        "runs/sums/cold-start",
        "runs/sums/tuned",
    ]
    assert set(compared.uses) == {"cold-start", "tuned"}


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
        (
            [SFT, {**SFT, "name": "more", "dataset_name": "sft"}],
            {},
            r":\d+: stage 'more': dataset_name: stage 'sft' \(sft\) writes no rows",
        ),
        (
            [SFT, GRPO | {"reward_funcs": ["model:sft"]}],
            {},
            r"stage 'grpo': reward_funcs: stage 'sft' \(sft\) trains no reward model",
        ),
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


def test_an_output_folder_that_cannot_be_is_refused(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = recipe(SFT, output_dir=str(tmp_path / "file" / "out"))
    with pytest.raises(ConfigError, match="cannot be written: Not a directory"):
        Progress(found).begin(found.stages[0], {})


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
