"""Presets hold their papers' numbers, build their configs, and stand behind flags and YAML."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import trl

import trl_deepseek
from trl_deepseek import hookimpl, jobs, load_registry
from trl_deepseek.cli import run, training
from trl_deepseek.cli.main import main
from trl_deepseek.cli.parser import Parser
from trl_deepseek.errors import PluginError, UserError
from trl_deepseek.jobs import recipe
from trl_deepseek.types import Preset

REGISTRY = load_registry()
CONFIGS = {"sft": "SFTConfig", "preference": "DPOConfig", "grpo": "GRPOConfig"}
# As the papers print them. A batch is per_device_train_batch_size by gradient_accumulation_steps.
PAPERS: dict[str, dict[str, Any]] = {
    # the project's method: its two configs
    "seed-sft": {
        "learning_rate": 2e-5,
        "num_train_epochs": 3,
        "batch": 32,
        "max_length": 4096,
        "weight_decay": 0.01,
        "warmup_steps": 0.03,
        "neftune_noise_alpha": 5.0,
        "lora_r": 64,
        "lora_alpha": 128,
        "lora_dropout": 0.05,
    },
    "seed-dpo": {
        "beta": 0.1,
        "learning_rate": 1e-6,
        "num_train_epochs": 1,
        "batch": 16,
        "max_length": 2048,
        "max_grad_norm": 1.0,
        "weight_decay": 0.01,
    },
    # "We fine-tuned our 7B model with 4 epochs ... The learning rates are 1e-5 and 5e-6"
    "deepseek-llm-sft": {"learning_rate": 1e-5, "num_train_epochs": 4},
    # "an epoch for DPO, with a learning rate of 5e-6 and batch size of 512, ... cosine"
    "deepseek-llm-dpo": {
        "learning_rate": 5e-6,
        "num_train_epochs": 1,
        "batch": 512,
        "lr_scheduler_type": "cosine",
    },
    # "the policy model as 1e-6. The KL coefficient is 0.04. ... we sample 64 outputs. The max
    # length is set to 1024, and the training batch size is 1024."
    "deepseek-math-grpo": {
        "learning_rate": 1e-6,
        "beta": 0.04,
        "num_generations": 64,
        "batch": 1024,
        "max_completion_length": 1024,
        "loss_type": "grpo",
    },
    # "learning rate to 3e-6, the KL coefficient to 0.001, and the sampling temperature to 1 ...
    # 16 outputs with a maximum length of 32,768 ... batch size of 512. Every 400 steps, we replace
    # the reference model ... each rollout generates 8,192 outputs"
    "deepseek-r1-zero": {
        "learning_rate": 3e-6,
        "beta": 0.001,
        "temperature": 1.0,
        "num_generations": 16,
        "max_completion_length": 32768,
        "batch": 512,
        "ref_model_sync_steps": 400,
        "generation_batch_size": 8192,
        "ref_model_mixup_alpha": 1.0,
    },
    # "starting at 5e-5 and gradually decreasing to 5e-6 ... 32,768" tokens
    "deepseek-r1-sft": {"learning_rate": 5e-5, "max_length": 32768},
    # "... the GRPO clip ratio to 10 ..."
    "deepseek-r1": {
        "learning_rate": 3e-6,
        "beta": 0.001,
        "epsilon": 10,
        "num_generations": 16,
        "max_completion_length": 32768,
        "batch": 512,
    },
    # no numbers: the advantage is "R - mean(R)", the KL estimate has the ratio in it
    "deepseek-v3.2-grpo": {"scale_rewards": "none", "use_bias_correction_kl": True},
    # "a constant learning rate of 1e-6, incorporating a linear warm-up over 20 rollout steps ...
    # prompt batch size is 512 and we sample 16 responses ... mini-batch size is set to 512, i.e.,
    # 16 gradient updates for each rollout step ... 20,480 ... 0.2 and 0.28"
    "dapo": {
        "learning_rate": 1e-6,
        "warmup_steps": 20 * 16,
        "generation_batch_size": 512 * 16,
        "num_generations": 16,
        "batch": 512,
        "max_completion_length": 20480,
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "beta": 0.0,
        "loss_type": "dapo",
    },
    # table 6
    "dr-grpo": {
        "max_completion_length": 3000,
        "temperature": 1.0,
        "num_generations": 8,
        "beta": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "lr_scheduler_type": "constant",
        "learning_rate": 1e-6,
        "epsilon": 0.2,
        "batch": 128,
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
    },
    # "partitioned into four mini-batches ... clipping ranges ... to 3e-4 and 4e-4"
    "gspo": {
        "steps_per_generation": 4,
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
        "importance_sampling_level": "sequence",
    },
}


def options(command: str, *words: str, plugins: str | None = None) -> Any:
    """What a training command parses, with its job settled."""
    parser = Parser(prog="trl-deepseek")
    training.add_arguments(parser, command)
    base = ["--model_name_or_path=tiny-deepseek-llm", "--output_dir=unused", "--dry_run"]
    parsed = parser.parse_args([*base, *words])
    return jobs.kind(command).settle(parsed)


@pytest.mark.parametrize("name", REGISTRY.presets)
def test_a_preset_holds_the_numbers_of_its_paper(name: str) -> None:
    found = REGISTRY.presets[name].options
    steps = found.get("gradient_accumulation_steps", 1)
    found["batch"] = found.get("per_device_train_batch_size", 8) * steps
    assert {option: found[option] for option in PAPERS[name]} == PAPERS[name]


@pytest.mark.parametrize("library", [trl, trl_deepseek], ids=["trl", "ours"])
@pytest.mark.parametrize("name", REGISTRY.presets)
def test_a_preset_builds_the_config_of_its_command(name: str, library: Any, tmp_path: Path) -> None:
    preset = REGISTRY.presets[name]
    config = getattr(library, CONFIGS[preset.command])
    built = config(**preset.values, output_dir=str(tmp_path), bf16=False)
    assert built.learning_rate == preset.values.get("learning_rate", built.learning_rate)
    assert trl.ModelConfig(**preset.model).use_peft is ("use_peft" in preset.model)


@pytest.mark.parametrize("name", REGISTRY.presets)
def test_every_source_is_a_paper_or_the_method_or_says_that_it_is_ours_and_why(name: str) -> None:
    preset = REGISTRY.presets[name]
    for source in preset.sources.values():
        assert re.search(r"arXiv:\d{4}\.\d{5}|docs/choosing.md|^ours: .{20}", source)
    if not name.startswith("seed"):  # no paper: it is the project's own method
        assert any(source.startswith("arXiv:") for source in preset.sources.values())


def test_flags_win_over_yaml_yaml_over_the_preset_and_the_preset_over_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("preset: seed-sft\nlearning_rate: 1e-5\nmax_length: 128\n")
    job = options("sft", "--config", str(config), "--max_length", "64")
    settled = job.config
    assert (settled.max_length, settled.learning_rate, settled.weight_decay) == (64, 1e-5, 0.01)
    assert settled.gradient_accumulation_steps == 8  # TRL's is 1
    assert settled.logging_steps == trl.SFTConfig(output_dir="x", bf16=False).logging_steps
    assert (job.adapter.r, job.adapter.lora_alpha, job.adapter.lora_dropout) == (64, 128, 0.05)


def test_what_a_preset_sets_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "trl_deepseek")
    options("dpo", "--preset", "seed-dpo", "--beta", "0.3")
    (line,) = [r.getMessage() for r in caplog.records if "preset" in r.getMessage()]
    assert line == (
        "preset seed-dpo: learning_rate=1e-06, num_train_epochs=1, per_device_train_batch_size=4, "
        "gradient_accumulation_steps=4, max_length=2048, max_grad_norm=1.0, weight_decay=0.01; "
        "given instead: loss_type, beta"
    )


def test_an_alias_keeps_its_loss_and_all_weights_leave_lora_out() -> None:
    assert options("ipo", "--preset", "seed-dpo").config.loss_type == ["ipo"]
    assert options("kto", "--preset", "seed-dpo").config.loss_type == "kto"
    assert options("sft", "--preset", "seed-sft", "--use_peft", "false").adapter is None
    assert options("sft", "--preset", "seed-sft", "--qlora", "--lora_r", "8").adapter.r == 8


class Mistyped:
    @hookimpl
    def register_presets(self, register: Any) -> None:
        sources = {"learning_rat": "arXiv:0000.00000"}
        register("typo", Preset("d", "sft", {"learning_rat": 1.0}, sources))


class OfTheRun:
    @hookimpl
    def register_presets(self, register: Any) -> None:
        register("folder", Preset("d", "sft", {"output_dir": "x"}, {"output_dir": "ours: x"}))


class WithoutSource:
    @hookimpl
    def register_presets(self, register: Any) -> None:
        register("mine", Preset("d", "sft", {"learning_rate": 1.0}, {}))


def test_a_number_without_a_source_is_no_preset() -> None:
    with pytest.raises(PluginError, match="no source is given for learning_rate"):
        load_registry([WithoutSource()])


@pytest.mark.parametrize(
    ("plugin", "name", "says"),
    [
        (Mistyped(), "typo", "preset 'typo': learning_rat is no option of sft (did you mean"),
        (OfTheRun(), "folder", "preset 'folder': output_dir is of one run, which no preset"),
    ],
)
def test_a_preset_with_options_that_a_command_does_not_have_is_refused(
    plugin: Any, name: str, says: str
) -> None:
    from trl_deepseek.jobs import presets

    registry = load_registry([plugin])
    with pytest.raises(PluginError) as caught:
        presets.check(name, registry.presets[name], registry, "sft")
    assert str(caught.value).startswith(says)


def test_plugins_check_tries_presets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from trl_deepseek import hookimpl\n"
        "from trl_deepseek.types import Preset\n\n"
        "@hookimpl\ndef register_presets(register):\n"
        "    source = {'seed': 'ours: a test'}\n"
        "    register('good', Preset('d', 'sft', {'seed': 1}, source))\n"
        "    register('bad', Preset('d', 'sfx', {'seed': 1}, source))\n"
    )
    assert main(["plugins", "check", str(plugin), "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)
    assert [each["problem"] for each in checks if each["claim"] == "sets what its command has"] == [
        "it is for 'sfx', which is no training command: sft, preference, reward, grpo",
        None,
    ]


def test_a_bad_number_of_a_preset_is_said_to_be_the_presets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from trl_deepseek import hookimpl\n"
        "from trl_deepseek.types import Preset\n\n"
        "@hookimpl\ndef register_presets(register):\n"
        "    values = {'max_length': -5}\n"
        "    register('mine', Preset('d', 'sft', values, {'max_length': 'ours: a test'}))\n"
    )
    words = ["--plugins", str(plugin), "--preset", "mine", "--output_dir", str(tmp_path / "out")]
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "1+1=", "completion": "2"}\n' * 2)
    model = ["--model_name_or_path", "tiny-deepseek-llm", "--dataset_name", str(rows)]
    assert main(["sft", *model, *words]) == 2
    said = "trl-deepseek sft: preset 'mine': max_length is -5: it must be at least 1"
    assert said in capsys.readouterr().err
    assert main(["validate", "sft", *model, *words, "--no_model", "--json"]) == 2
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["message"] == "max_length is -5: it must be at least 1"
    assert problem["place"] == "preset 'mine'"


def test_a_stage_of_a_recipe_takes_a_preset_and_knows_that_it_saves_an_adapter(
    tmp_path: Path,
) -> None:
    file = tmp_path / "recipe.yaml"
    stages = "stages:\n  - {command: sft, preset: seed-sft, dataset_name: arithmetic}\n"
    head = f"output_dir: {tmp_path}/out\nmodel_name_or_path: tiny-deepseek-llm\n"
    file.write_text(head + stages)
    (stage,) = recipe.read(str(file), run.check_names).stages
    assert stage.saves_adapter
    parsed = run._parse(stage, recipe.read(str(file), run.check_names))
    assert jobs.kind("sft").settle(parsed).config.gradient_accumulation_steps == 8
    file.write_text(head + stages + "  - {command: grpo, dataset_name: arithmetic}\n")
    with pytest.raises(UserError, match="put '- command: merge' between the two"):
        recipe.read(str(file), run.check_names)


def test_the_command_lists_presets_and_shows_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {each["name"] for each in listed} == set(PAPERS)
    assert main(["presets", "show", "dapo", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one in listed
    assert set(one["sources"]) == {*one["values"], *one["model"]}
    assert main(["presets", "show", "deepseek-r1"]) == 0
    page = capsys.readouterr().out
    assert "'the GRPO clip ratio'" in page
    assert "arXiv:2501.12948" in page
    assert main(["presets"]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in PAPERS)
