"""Named losses and advantages in runs: resumed, with shared prefixes, on adapters.

The pairs cover each reduction, and what a loss or an advantage may need: the ratio of a token or of
a sequence, the reference, a penalty among the rewards, chance, several updates of one rollout.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

from trl_deepseek import GRPOConfig, GRPOTrainer, load_registry

pytestmark = pytest.mark.matrix
REGISTRY = load_registry()
PAIRS: dict[str, dict[str, Any]] = {
    "sequence_mean, a ratio of the sequence": {"advantage": "rloo", "loss_type": "gspo"},
    "sequence_mean, a mask of completions": {"advantage": "grpo", "loss_type": "deepseek_v3_2"},
    "sequence_sum, a weight of the sequence": {"advantage": "maxrl", "loss_type": "topr"},
    "token_mean, k2": {
        "advantage": "reinforce_pp",
        "loss_type": "bnpo",
        "beta": 0.1,
        "kl_estimator": "k2",
    },
    "constant, high entropy": {
        "advantage": "pass_at_k",
        "advantage_kwargs": {"k": 2, "threshold": 12.0},
        "loss_type": "dr_grpo",
        "loss_kwargs": {"epsilon": 0.1},
        "top_entropy_quantile": 0.5,
    },
    "global_tokens, KL in the reward": {
        "advantage": "gdpo",
        "loss_type": "cispo",
        "loss_kwargs": {"epsilon_high": 5.0},
        "beta": 0.1,
        "kl_in": "reward",
        "drop_equal_groups": True,
    },
    "global_tokens, chance": {
        "advantage": "batch_norm",
        "loss_type": "clip_cov",
        "loss_kwargs": {"clip_cov_low": -9.0, "clip_cov_ratio": 0.2},
        "entropy_coef": 0.01,
    },
}


def length(completion: str) -> float:
    return float(len(completion))


def digits(completion: str) -> float:
    return float(any(letter.isdigit() for letter in completion))


def trainer(folder: Path, model: Any = None, **options: Any) -> GRPOTrainer:
    built, tokenizer = REGISTRY.models["tiny-deepseek-llm"]()
    config = GRPOConfig(
        str(folder),
        **{
            "chat_template": "deepseek-v3",
            "per_device_train_batch_size": 4,
            "num_generations": 4,
            "num_iterations": 2,
            "gradient_accumulation_steps": 2,
            "max_completion_length": 5,
            "max_steps": 3,
            "learning_rate": 3e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "save_completions": False,
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "disable_tqdm": True,
            "gradient_checkpointing": False,
            **options,
        },
    )
    rows = REGISTRY.datasets["arithmetic"](size=8)
    return GRPOTrainer(
        model or built, [length, digits], config, train_dataset=rows, processing_class=tokenizer
    )


def losses(run: GRPOTrainer) -> list[float]:
    return [log["grad_norm"] for log in run.state.log_history if "grad_norm" in log]


@pytest.mark.parametrize("pair", PAIRS)
def test_a_resumed_run_ends_with_the_same_weights(pair: str, tmp_path: Path) -> None:
    make: Any = functools.partial(trainer, **PAIRS[pair])
    whole = make(tmp_path / "whole", save_strategy="steps", save_steps=1)
    whole.train()
    assert any(losses(whole))
    resumed = make(tmp_path / "resumed")
    # in the middle of a rollout, of which two updates are made
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name


@pytest.mark.parametrize("pair", PAIRS)
def test_shared_prefixes_change_nothing(pair: str, tmp_path: Path) -> None:
    found = []
    for mode in ("on", "off"):
        run = trainer(tmp_path / mode, prefix_sharing=mode, **PAIRS[pair])
        run.train()
        found.append(losses(run))
    assert found[0] == pytest.approx(found[1], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("held", ["lora", "qlora"])
def test_adapters_learn(held: str, tmp_path: Path) -> None:
    pair = PAIRS["global_tokens, KL in the reward"]
    if held == "qlora":
        pytest.importorskip("bitsandbytes")
    run = trainer(tmp_path, "tiny-deepseek-llm", quantization=held, **pair)
    before = {n: w.clone() for n, w in run.model.state_dict().items() if "lora_B" in n}
    run.train()
    after = run.model.state_dict()
    assert before
    assert any(not torch.equal(weight, after[name]) for name, weight in before.items())
