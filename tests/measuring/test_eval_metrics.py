"""Metrics in training: logged where the best checkpoint is chosen, and nothing else is changed."""

from __future__ import annotations

import random
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from trl_deepseek import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl_deepseek.cli.main import main
from trl_deepseek.errors import ConfigError, DataError, UnknownName
from trl_deepseek.health.symptoms import Series, metric_falls

PLUGIN = """
import random
import numpy, torch
from trl_deepseek import hookimpl

CALLS = []

@hookimpl
def register_metrics(register):
    register("answers", answers)
    register("size", size, over="model", rows="demonstrations", higher_is_better=False)

def answers(completions, solution, **_):
    # draws as a metric may, which is not to change the run
    random.random(), numpy.random.rand(), torch.rand(3)
    CALLS.append(len(completions))
    return [float(len(text[-1]["content"])) for text in completions]

def size(model, tokenizer, dataset):
    CALLS.append(sum(module.training for module in model.modules()))
    return [float(sum(p.detach().abs().sum() for p in model.parameters()))] * len(dataset)
"""

FEW = """
from datasets import Dataset
from trl_deepseek import hookimpl

@hookimpl
def register_datasets(register):
    register("few", few)

def few(split="train", kind="prompts", size=None, seed=0):
    asked = [{"role": "user", "content": "1+1"}]
    said = [{"role": "assistant", "content": "2"}]
    other = {"demonstrations": {"completion": said}, "prompts": {"solution": "2"}}[kind]
    return Dataset.from_list([{"prompt": asked, **other}] * 3)
"""


def held_out() -> Dataset:
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": f"{n}+1"}],
                "completion": [{"role": "assistant", "content": str(n + 1)}],
                "solution": str(n + 1),
            }
            for n in range(3)
        ]
    )


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("plugin") / "measures.py"
    file.write_text(PLUGIN)
    return str(file)


def sft(folder: Path, plugin: str, peft_config: Any = None, **given: Any) -> SFTTrainer:
    options = {
        "max_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "chat_template": "deepseek-v3",
        "plugins": [plugin],
        "noise": "neftune",
        "per_device_train_batch_size": 2,
        "learning_rate": 1e-3,
        "eval_max_new_tokens": 4,
        "disable_tqdm": True,
    }
    config = SFTConfig(str(folder), **{**options, **given})
    rows = held_out()
    return SFTTrainer(
        "tiny-deepseek-llm",
        config,
        train_dataset=rows,
        eval_dataset=rows,
        peft_config=peft_config,
    )


def lora() -> LoraConfig:
    return LoraConfig(r=4, target_modules=["q_proj"], lora_dropout=0.5, task_type="CAUSAL_LM")


def test_a_run_with_metrics_and_one_without_have_bitwise_equal_weights(
    tmp_path: Path, plugin: str
) -> None:
    """With noise and dropout, whose random numbers the answers must not use up."""
    weights: list[dict[str, torch.Tensor]] = []
    drawn = []
    for names in (None, ["answers", "size", "exact_match"]):
        random.seed(0)
        numpy.random.seed(0)
        torch.manual_seed(0)
        folder = tmp_path / str(len(weights))
        trainer = sft(folder, plugin, eval_metrics=names, peft_config=lora())
        trainer.train()
        weights.append({k: v.clone() for k, v in trainer.model.state_dict().items()})
        drawn.append((random.random(), numpy.random.rand(), torch.rand(1).item()))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert drawn[0] == drawn[1]
    logged = [record for record in trainer.state.log_history if "eval_answers" in record]
    assert [record["step"] for record in logged] == [1, 2]
    assert all({"eval_loss", "eval_size", "eval_exact_match"} <= record.keys() for record in logged)
    total = sum(parameter.detach().abs().sum() for parameter in trainer.model.parameters())
    assert logged[-1]["eval_size"] == pytest.approx(float(total))


def test_a_run_resumed_is_exact_with_metrics(tmp_path: Path, plugin: str) -> None:
    given = {"eval_metrics": ["answers"], "save_strategy": "steps", "save_steps": 1}
    whole = sft(tmp_path / "whole", plugin, peft_config=lora(), **given)
    whole.train()
    again = sft(tmp_path / "again", plugin, peft_config=lora(), **given)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    found = again.model.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in whole.model.state_dict().items())


def test_the_best_checkpoint_is_the_one_with_the_best_metric(tmp_path: Path, plugin: str) -> None:
    trainer = sft(
        tmp_path,
        plugin,
        max_steps=3,
        learning_rate=1e-2,
        eval_metrics=["size"],
        save_strategy="steps",
        save_steps=1,
        metric_for_best_model="eval_size",
        greater_is_better=False,
        load_best_model_at_end=True,
    )
    trainer.train()
    sizes = {r["step"]: r["eval_size"] for r in trainer.state.log_history if "eval_size" in r}
    best = min(sizes, key=lambda step: sizes[step])
    assert trainer.state.best_global_step == best
    total = sum(parameter.detach().abs().sum() for parameter in trainer.model.parameters())
    assert float(total) == pytest.approx(sizes[best])


def test_grpo_and_dpo_measure_what_is_not_their_reward(tmp_path: Path, plugin: str) -> None:
    rows = held_out().remove_columns("completion")
    shared: dict[str, Any] = {"report_to": [], "chat_template": "deepseek-v3", "plugins": [plugin]}
    grpo = GRPOTrainer(
        "tiny-deepseek-llm",
        ["exact_match"],
        GRPOConfig(
            str(tmp_path / "grpo"),
            eval_metrics=["answers"],
            max_completion_length=5,
            num_generations=2,
            per_device_train_batch_size=2,
            per_device_eval_batch_size=2,
            **shared,
        ),
        rows,
        {"a": rows, "b": rows.select([0])},
    )
    found = grpo.evaluate()
    assert {"eval_a_answers", "eval_b_answers", "eval_a_loss"} <= found.keys()
    pairs = held_out().rename_column("completion", "chosen")
    wrong = [[{"role": "assistant", "content": "no"}]] * 3
    config = DPOConfig(
        str(tmp_path / "dpo"),
        eval_metrics=["answers", "win_rate"],
        metric_kwargs={"win_rate": {"judge": "exact_match", "against": "reference"}},
        eval_max_new_tokens=5,
        **shared,
    )
    data = pairs.add_column("rejected", wrong).add_column("reference", pairs["solution"])
    dpo = DPOTrainer("tiny-deepseek-llm", args=config, train_dataset=data, eval_dataset=data)
    measured = dpo.evaluate()
    # The same weights and prompts: the same answers.
    assert measured["eval_answers"] == found["eval_a_answers"]
    assert measured["eval_win_rate"] == 0.0  # of an untrained model against what is right


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"eval_metrics": ["exact_mach"]}, UnknownName, "did you mean 'exact_match'"),
        ({"eval_metrics": "exact_match"}, ConfigError, "it must be a list of names"),
        (
            {"eval_metrics": ["format_json"]},
            UnknownName,
            "no plugin registers a metric or a reward",
        ),
        ({"eval_metrics": ["answers", "answers"]}, ConfigError, "is named twice"),
        (
            {
                "eval_metrics": ["size"],
                "load_best_model_at_end": True,
                "metric_for_best_model": "eval_size",
                "save_strategy": "steps",
                "save_steps": 1,
            },
            ConfigError,
            "greater_is_better is true: the best model has the lowest size",
        ),
        (
            {
                "load_best_model_at_end": True,
                "metric_for_best_model": "exact_match",
                "save_strategy": "steps",
                "save_steps": 1,
            },
            ConfigError,
            "which the run does not measure\n  add --eval_metrics exact_match",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_before_a_model_is_loaded(
    given: dict[str, Any], error: type[Exception], says: str, tmp_path: Path, plugin: str
) -> None:
    with pytest.raises(error, match=says):
        sft(tmp_path, plugin, **given)


def test_a_run_in_which_no_process_has_the_whole_model_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SFTConfig(
        str(tmp_path), eval_metrics=["exact_match"], report_to=[], chat_template="deepseek-v3"
    )
    rows = held_out()
    for stage, refused in ((2, False), (3, True)):
        config.deepspeed_plugin = SimpleNamespace(zero_stage=stage)
        with pytest.raises(ConfigError, match="ZeRO-3") if refused else nullcontext():
            SFTTrainer.check("tiny-deepseek-llm", config, rows, rows)
    config.deepspeed_plugin = None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="no process has the whole model"):
        SFTTrainer.check("tiny-deepseek-llm", config, rows, rows)


def test_rows_that_lack_what_a_metric_needs_are_refused(tmp_path: Path, plugin: str) -> None:
    config = SFTConfig(
        str(tmp_path), eval_metrics=["exact_match"], report_to=[], chat_template="deepseek-v3"
    )
    bare = held_out().remove_columns("solution")
    with pytest.raises(DataError, match="'exact_match' needs the column 'solution'"):
        SFTTrainer.check("tiny-deepseek-llm", config, held_out(), bare)
    with pytest.raises(ConfigError, match="there is nothing to evaluate on"):
        SFTTrainer.check("tiny-deepseek-llm", config, held_out())


def test_the_command_measures_an_embedded_dataset_in_the_kind_that_is_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "few.py").write_text(FEW)
    words = ["sft", "--model_name_or_path", "tiny-deepseek-llm", "--dataset_name", "few"]
    words += ["--plugins", str(tmp_path / "few.py")]
    words += ["--output_dir", str(tmp_path), "--max_steps", "1", "--save_strategy", "no"]
    words += ["--eval_strategy", "steps", "--eval_steps", "1", "--dataset_test_split", "test"]
    words += ["--eval_metrics", "exact_match", "--eval_max_new_tokens", "1"]
    words += ["--chat_template", "deepseek-v3"]
    assert main(words) == 0
    assert "eval_exact_match 0" in capsys.readouterr().out


def test_reward_up_and_metric_down_is_said() -> None:
    for name, better, values in (("eval_good", True, (5, 4, 3)), ("eval_bad", False, (3, 4, 5))):
        run = Series(metrics={name: better})
        for step in range(10):
            run.add({"reward": step, "reward_std": 1.0})
        for value in values:
            assert metric_falls(run) is None
            run.add({name: value})
        way = "fallen" if better else "risen"
        said = f"the reward has risen and {name} has {way} from {values[0]} to {values[-1]}"
        assert str(metric_falls(run)).startswith(said)
