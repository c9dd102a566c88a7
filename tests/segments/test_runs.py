"""Whole runs with and without ``prefix_sharing``: the same curve, the same completions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

import trl_deepseek
from trl_deepseek.errors import ConfigError
from trl_deepseek.rollouts.history import read

STEPS = 30


def train(folder: Path, sharing: str, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "prefix_sharing": sharing,
        "chat_template": "deepseek-v3",
        "max_steps": STEPS,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 6,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        **options,
    }
    adapter = settings.pop("peft_config", None)

    def digits(completions: list[Any], **_: Any) -> list[float]:
        return [sum(c.isdigit() for c in each[0]["content"]) / 6 for each in completions]

    rows = trl_deepseek.load_registry().datasets["arithmetic"](kind="prompts", size=64)
    args = trl_deepseek.GRPOConfig(str(folder), **settings)
    trainer = trl_deepseek.GRPOTrainer(
        "tiny-deepseek-llm", digits, args, train_dataset=rows, peft_config=adapter
    )
    trainer.train()
    return trainer


def logged(trainer: Any, name: str) -> list[float]:
    return [line[name] for line in trainer.state.log_history if name in line]


@pytest.mark.matrix
@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_thirty_steps_have_one_curve_and_one_set_of_completions(
    adapter: bool, tmp_path: Path
) -> None:
    peft = {"peft_config": LoraConfig(r=4, lora_dropout=0.0)} if adapter else {}
    runs = {mode: train(tmp_path / mode, mode, beta=0.04, **peft) for mode in ("on", "off")}
    for name in ("loss", "reward", "kl", "entropy", "grad_norm"):
        on, off = (logged(runs[mode], name) for mode in ("on", "off"))
        assert len(on) == STEPS
        assert on == pytest.approx(off, rel=1e-3, abs=1e-5), name
    on, off = ([row.completion for row in read(tmp_path / mode)] for mode in ("on", "off"))
    assert len(on) == 8 * STEPS
    assert on == off


HEAD = LoraConfig(r=4, lora_dropout=0.0, target_modules=["q_proj", "lm_head"])


def test_an_adapter_on_the_head_is_scored_and_trained(tmp_path: Path) -> None:
    """TRL's GRPO refuses it, since its own head multiplies by the weight alone."""
    trainer = train(tmp_path, "auto", peft_config=HEAD, max_steps=2)
    weights = [
        parameter
        for name, parameter in trainer.model.named_parameters()
        if "lm_head" in name and "lora_B" in name
    ]
    assert len(weights) == 1
    assert weights[0].abs().max() > 0  # zero at first
    with torch.no_grad():
        weights[0].normal_()
        ids = torch.randint(5, 200, (4, 9), generator=torch.Generator().manual_seed(0))
        found = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, torch.ones_like(ids), logits_to_keep=4
        )[0]
        logits = trainer.model(ids).logits[:, -5:-1]
    expected = logits.log_softmax(-1).gather(-1, ids[:, -4:, None])[..., 0]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "option",
    [{"prefix_sharing": "off"}, {"entropy_coef": 0.1}, {"cast_lm_head_to_fp32": True}],
    ids=lambda option: next(iter(option)),
)
def test_an_adapter_on_the_head_is_refused_where_trls_head_scores(
    option: dict[str, Any], tmp_path: Path
) -> None:
    options = {"sharing": option.pop("prefix_sharing", "auto"), **option}
    with pytest.raises(ConfigError, match="which leaves adapters out"):
        train(tmp_path, peft_config=HEAD, **options)
