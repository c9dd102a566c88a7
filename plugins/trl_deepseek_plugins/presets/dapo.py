"""DAPO, arXiv:2503.14476: GRPO for long reasoning from a base model."""

from __future__ import annotations

from trl_deepseek import hookimpl
from trl_deepseek.types import Preset, Register

PAPER = "arXiv:2503.14476, section 4.1"


@hookimpl
def register_presets(register: Register) -> None:
    register("dapo", DAPO)


DAPO = Preset(
    description="DAPO on mathematics: clip higher, token-level loss, overlong answers masked.",
    command="grpo",
    values={
        "loss_type": "dapo",
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "mask_truncated_completions": True,
        "beta": 0.0,
        "scale_rewards": "group",
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 320,
        "num_generations": 16,
        "max_completion_length": 20_480,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 128,
        "generation_batch_size": 8192,
    },
    sources={
        "loss_type": "arXiv:2503.14476, section 3.3",
        "epsilon": PAPER,
        "epsilon_high": f"{PAPER}; section 3.1",
        "mask_truncated_completions": "arXiv:2503.14476, section 3.4, overlong filtering",
        "beta": "arXiv:2503.14476, section 2.3",
        "scale_rewards": "arXiv:2503.14476, equation 9",
        "learning_rate": PAPER,
        "lr_scheduler_type": f"{PAPER}: constant, after a linear warm-up",
        "warmup_steps": f"{PAPER}: 20 rollout steps of 16 updates each",
        "num_generations": PAPER,
        "max_completion_length": f"{PAPER}: 16,384 and 4,096 more",
        "per_device_train_batch_size": "ours: 4 by 128 steps of accumulation make the paper's 512",
        "gradient_accumulation_steps": f"{PAPER}: mini-batches of 512, on one process",
        "generation_batch_size": f"{PAPER}: 512 prompts of 16 responses, 16 updates of them",
    },
    notes=(
        "Soft overlong punishment (equation 13) is the reward soft_overlong: "
        "--reward_funcs math_accuracy soft_overlong.",
        "The paper's reward is 1 or -1; math_accuracy's is 1 or 0, so that soft_overlong, which "
        "takes up to 1 away, weighs twice as much beside it: --reward_weights 2 1.",
        "Dynamic sampling (section 3.2) is not in TRL.",
    ),
)
