"""Dr. GRPO, arXiv:2503.20783: GRPO without the two divisions that bias it."""

from __future__ import annotations

from trl_deepseek import hookimpl
from trl_deepseek.types import Preset, Register

PAPER = "arXiv:2503.20783, table 6"


@hookimpl
def register_presets(register: Register) -> None:
    register("dr-grpo", DR_GRPO)


DR_GRPO = Preset(
    description="Dr. GRPO: no division by length or spread, no reference model.",
    command="grpo",
    values={
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "epsilon": 0.2,
        "beta": 0.0,
        "temperature": 1.0,
        "top_p": 1.0,
        "num_generations": 8,
        "max_completion_length": 3000,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 128,
        "num_iterations": 1,
    },
    sources={
        "loss_type": "arXiv:2503.20783, section 3.2",
        "scale_rewards": "arXiv:2503.20783, section 3.2",
        "learning_rate": PAPER,
        "lr_scheduler_type": PAPER,
        "adam_beta1": PAPER,
        "adam_beta2": PAPER,
        "weight_decay": PAPER,
        "max_grad_norm": PAPER,
        "epsilon": PAPER,
        "beta": PAPER,
        "temperature": PAPER,
        "top_p": PAPER,
        "num_generations": PAPER,
        "max_completion_length": PAPER,
        "per_device_train_batch_size": "the authors' code for arXiv:2503.20783, "
        "train_batch_size_per_device",
        "gradient_accumulation_steps": "the authors' code for arXiv:2503.20783, train_batch_size "
        "128, on one process",
        "num_iterations": PAPER,
    },
)
