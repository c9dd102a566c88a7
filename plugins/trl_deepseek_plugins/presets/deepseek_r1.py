"""DeepSeek-R1, arXiv:2501.12948 (version 2, as in Nature): R1-Zero, the cold start and R1's RL."""

from __future__ import annotations

from typing import Any

from trl_deepseek import hookimpl
from trl_deepseek.types import Preset, Register

PAPER = "arXiv:2501.12948"


@hookimpl
def register_presets(register: Register) -> None:
    register("deepseek-r1-zero", ZERO)
    register("deepseek-r1-sft", SFT)
    register("deepseek-r1", R1)


# What R1-Zero and the first RL stage of R1 share.
VALUES: dict[str, Any] = {
    "loss_type": "grpo",
    "scale_rewards": "group",
    "use_bias_correction_kl": False,
    "learning_rate": 3e-6,
    "beta": 0.001,
    "temperature": 1.0,
    "num_generations": 16,
    "max_completion_length": 32_768,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 128,
    "generation_batch_size": 8192,
    "num_iterations": 1,
    "sync_ref_model": True,
    "ref_model_sync_steps": 400,
    "ref_model_mixup_alpha": 1.0,
}


def _sources(section: str) -> dict[str, str]:
    here = f"{PAPER}, section {section}"
    return {
        "loss_type": f"{PAPER}, equation 1: a mean over each output, then over the group",
        "scale_rewards": f"{PAPER}, equation 3",
        "use_bias_correction_kl": f"{PAPER}, equation 2: the estimate without a ratio",
        "learning_rate": here,
        "beta": here,
        "temperature": here,
        "num_generations": here,
        "max_completion_length": here,
        "per_device_train_batch_size": "ours: 4 by 128 steps of accumulation make the paper's 512",
        "gradient_accumulation_steps": f"{here}: 32 questions, a batch of 512, on one process",
        "generation_batch_size": f"{here}: 8,192 outputs a rollout, in 16 mini-batches",
        "num_iterations": f"{here}: 'a single inner epoch'",
        "sync_ref_model": f"{here}: the reference becomes the latest policy",
        "ref_model_sync_steps": here,
        "ref_model_mixup_alpha": f"{here}: replaced, so nothing of the old one is mixed in",
    }


REWARDS = (
    "Its rewards are rules (section 2.2): --reward_funcs math_accuracy think_format, or "
    "code_tests for code."
)

ZERO = Preset(
    description="R1-Zero: GRPO on a base model with rewards for right answers and format.",
    command="grpo",
    values=VALUES,
    sources=_sources("2.1"),
    notes=(
        REWARDS,
        "The clip range epsilon of R1-Zero is not given: it stays at TRL's default (R1 has 10).",
        "From step 8,200 of 10,400 on, outputs may have 65,536 tokens: train on with "
        "--init_from_checkpoint and --max_completion_length 65536.",
        "TRL does not replace the reference under LoRA: add --sync_ref_model false there.",
    ),
)

SFT = Preset(
    description="R1's cold start and second SFT, on rows that reason.",
    command="sft",
    values={
        "learning_rate": 5e-5,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": 5e-6},
        "num_train_epochs": 2,
        "max_length": 32_768,
    },
    sources={
        "learning_rate": f"{PAPER}, appendix B.4.2",
        "lr_scheduler_type": f"{PAPER}, appendix B.4.2: cosine decay",
        "lr_scheduler_kwargs": f"{PAPER}, appendix B.4.2: down to 5e-6",
        "num_train_epochs": f"{PAPER}, appendix B.4.2: 2 to 3",
        "max_length": f"{PAPER}, appendix B.4.2",
    },
    notes=(
        "The paper's batch of 128 is left to you: per_device_train_batch_size times "
        "gradient_accumulation_steps times processes.",
    ),
)

R1 = Preset(
    description="R1's first RL stage: GRPO after the cold start, with language consistency.",
    command="grpo",
    values={**VALUES, "epsilon": 10.0},
    sources={**_sources("3.2.1"), "epsilon": f"{PAPER}, section 3.2.1: 'the GRPO clip ratio'"},
    notes=(
        f"{REWARDS} R1 adds language_consistency with weight 1 (equation 7).",
        "The second RL stage (section 3.2.2) has temperature 0.7 and 1,700 steps, and preference "
        "rewards, --reward_funcs model:FOLDER, in the last 400 only: a run of its own.",
        "TRL does not replace the reference under LoRA: add --sync_ref_model false there.",
    ),
)
