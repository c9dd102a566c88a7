"""DeepSeek LLM, arXiv:2401.02954: SFT and DPO of the 7B model."""

from __future__ import annotations

from trl_deepseek import hookimpl
from trl_deepseek.types import Preset, Register

PAPER = "arXiv:2401.02954, section 4"


@hookimpl
def register_presets(register: Register) -> None:
    register("deepseek-llm-sft", SFT)
    register("deepseek-llm-dpo", DPO)


SFT = Preset(
    description="DeepSeek LLM 7B's SFT, all weights.",
    command="sft",
    values={"learning_rate": 1e-5, "num_train_epochs": 4, "max_length": 4096},
    sources={
        "learning_rate": f"{PAPER} (7B; 5e-6 for 67B)",
        "num_train_epochs": f"{PAPER} (7B; 2 for 67B, which overfits)",
        "max_length": "arXiv:2401.02954, section 2.2, table 2: the context of the models",
    },
    notes=(
        "The paper does not give the batch size and the schedule: they stay at TRL's defaults.",
        "Its 1.5 million rows are instructions for helpfulness (1.2 million) and safety.",
        "It then tunes the 7B once more without mathematics and code, against repetition.",
    ),
)

DPO = Preset(
    description="DeepSeek LLM's DPO, all weights.",
    command="preference",
    values={
        "loss_type": ["sigmoid"],
        "learning_rate": 5e-6,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 128,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.03,
    },
    sources={
        "loss_type": f"{PAPER}: the loss of arXiv:2305.18290",
        "learning_rate": PAPER,
        "num_train_epochs": PAPER,
        "per_device_train_batch_size": "ours: 4 by 128 steps of accumulation make the paper's 512",
        "gradient_accumulation_steps": f"{PAPER}: batch size 512, on one process",
        "lr_scheduler_type": PAPER,
        "warmup_steps": "ours: the paper has a warm-up and does not say how long",
    },
    notes=("The paper does not give beta: it stays at the loss's own default, 0.1.",),
)
