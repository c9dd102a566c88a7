from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import trl_deepseek
from trl_deepseek import load_registry
from trl_deepseek.cli.main import main

SHORT = [
    *("--dataset_name", "arithmetic", "--chat_template", "deepseek-v3", "--max_steps", "1"),
    *("--per_device_train_batch_size", "4", "--report_to", "none", "--save_strategy", "no"),
]
GENERATION = ["--num_generations", "4", "--max_completion_length", "4"]


@pytest.mark.parametrize(
    ("command", "model"),
    [
        pytest.param(*cell, id=name, marks=[pytest.mark.matrix] * (name not in ("ipo", "grpo")))
        for name, cell in {
            "sft": (["sft"], "tiny-deepseek-v2"),
            "ipo": (["preference", "--loss_type", "ipo"], "tiny-deepseek-v3"),
            "kto": (["preference", "--loss_type", "kto"], "tiny-deepseek-llm"),
            "reward": (["reward"], "tiny-deepseek-v3"),
            "grpo": (["grpo", "--reward_funcs", "exact_match", *GENERATION], "tiny-deepseek-llm"),
        }.items()
    ],
)
def test_every_training_command_takes_qlora(
    command: list[str], model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--model_name_or_path", model, "--output_dir", str(tmp_path)]
    assert main([*command, *SHORT, *where, "--qlora", "--lora_r", "4"]) == 0
    assert "quantization qlora: weights in nf4" in capsys.readouterr().err
    saved = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert saved["r"] == 4
    assert saved["lora_alpha"] == 128  # of the quantization, since only the rank was given
    assert saved["base_model_name_or_path"] == model
    assert (tmp_path / "adapter_model.safetensors").stat().st_size > 0
    assert not (tmp_path / "model.safetensors").exists()


def test_a_config_file_may_say_qlora(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("qlora: true\nlora_alpha: 8\n", encoding="utf-8")
    where = ["--model_name_or_path", "tiny-deepseek-llm", "--output_dir", str(tmp_path / "out")]
    assert main(["sft", "--config", str(file), *SHORT, *where]) == 0
    assert "LoRA, rank 64, alpha 8, on" in capsys.readouterr().err


@pytest.mark.matrix
def test_continuous_batching_leaves_a_quantized_model_as_it_is(tmp_path: Path) -> None:
    def lengths(completions: list[Any], **_: Any) -> list[float]:
        return [float(len(str(completion)) % 3) for completion in completions]

    args = trl_deepseek.GRPOConfig(
        str(tmp_path),
        quantization="qlora",
        chat_template="deepseek-v3",
        bf16=True,  # TRL then casts the model, which bitsandbytes refuses
        use_cpu=True,
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=4,
        use_transformers_continuous_batching=True,
        gradient_checkpointing=False,
        save_completions=False,
        report_to="none",
    )
    rows = load_registry().datasets["arithmetic"](kind="prompts", size=8)
    trainer = trl_deepseek.GRPOTrainer("tiny-deepseek-llm", lengths, args, train_dataset=rows)
    before = {name: parameter.dtype for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.state.global_step == 1
    assert before == {name: p.dtype for name, p in trainer.model.named_parameters()}
    assert torch.uint8 in before.values()


@pytest.mark.matrix
@pytest.mark.slow
def test_the_examples_run(tmp_path: Path, repository: Path) -> None:
    import subprocess
    import sys

    for name, steps in (("qlora_sft", "2"), ("qlora_grpo", "1")):
        folder = str(tmp_path / name)
        command = [sys.executable, str(repository / "examples" / f"{name}.py")]
        command += ["--output_dir", folder, "--max_steps", steps]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert (Path(folder) / "adapter_model.safetensors").exists()
