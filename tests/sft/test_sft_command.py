from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trl_deepseek.cli.main import main
from trl_deepseek.jobs import running

SEEDS_MODULES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
Build = Callable[..., Any]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """The trainer that ``trl-deepseek sft`` would train."""
    built: list[Any] = []

    def keep(trainer: Any) -> Any:
        built.append(trainer)
        return SimpleNamespace(metrics={})

    monkeypatch.setattr(running, "train", keep)
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"instruction": "1+1", "input": "", "output": "2"}) + "\n")
    common = ["--dataset_name", str(file), "--output_dir", str(tmp_path), "--report_to", "none"]

    def run(*flags: str) -> Any:
        command = ["sft", "--model_name_or_path", "tiny-deepseek-llm", *common]
        assert main([*command, "--chat_template", "deepseek-v3", *flags]) == 0
        return built.pop()

    return run


def test_use_peft_means_the_seeds_lora_decay_and_warm_up(build: Build) -> None:
    trainer = build("--use_peft")
    lora = trainer.model.peft_config["default"]
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (64, 128, 0.05)
    assert set(lora.target_modules) == SEEDS_MODULES
    assert trainer.args.weight_decay == 0.01
    assert trainer.args.get_warmup_steps(1000) == 30


def test_what_is_given_wins_over_the_seeds_numbers(build: Build, tmp_path: Path) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("weight_decay: 0.2\nlora_target_modules: [q_proj, v_proj]\n")
    flags = ["--lora_r", "4", "--lora_alpha", "8", "--lora_dropout", "0", "--warmup_steps", "7"]
    trainer = build("--use_peft", "--config", str(config), *flags)
    lora = trainer.model.peft_config["default"]
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (4, 8, 0.0)
    assert set(lora.target_modules) == {"q_proj", "v_proj"}
    assert trainer.args.weight_decay == 0.2
    assert trainer.args.get_warmup_steps(1000) == 7


def test_without_use_peft_trls_defaults_hold(build: Build) -> None:
    import trl

    trainer = build()
    assert not hasattr(trainer.model, "peft_config")
    defaults = trl.SFTConfig("x", use_cpu=True, bf16=False)
    for option in ("weight_decay", "warmup_steps", "learning_rate", "num_train_epochs", "packing"):
        assert getattr(trainer.args, option) == getattr(defaults, option), option


def test_noise_by_name_reaches_the_trainer(build: Build) -> None:
    noise = build("--noise", "gaussian", "--noise_alpha", "0.05").embedding_noise.noise
    assert (noise.name, noise.options) == ("gaussian", {"alpha": 0.05})
    noise = build("--neftune_noise_alpha", "7").embedding_noise.noise
    assert (noise.name, noise.options) == ("neftune", {"alpha": 7.0})


def test_what_was_recognised_is_said_on_stderr(
    build: Build, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build()
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trl-")]
    rows = tmp_path / "rows.jsonl"
    assert told == [
        "trl-deepseek sft: chat template: deepseek-v3 (named)",
        f"trl-deepseek sft: {rows}: Alpaca rows (instruction, input, output), rewritten as "
        "conversations",
        "trl-deepseek sft: the loss is on what the assistant generates",
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--noise", "neftun"], "no plugin registers a noise named 'neftun'\n  did you mean"),
        (["--noise_alpha", "5"], "noise_alpha is set, but noise is not"),
        (["--noise", "gaussian", "--neftune_noise_alpha", "5"], "neftune_noise_alpha and noise"),
    ],
)
def test_a_wrong_noise_is_refused_before_anything_is_loaded(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    named = ["--model_name_or_path", "tiny-deepseek-llm", "--dataset_name", "no-such-file.jsonl"]
    assert main(["sft", *named, "--output_dir", str(tmp_path), *flags]) == 2
    assert capsys.readouterr().err.startswith(f"trl-deepseek sft: {message}")
