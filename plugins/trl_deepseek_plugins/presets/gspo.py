"""GSPO, arXiv:2507.18071: one ratio and one clip for each sequence."""

from __future__ import annotations

from trl_deepseek import hookimpl
from trl_deepseek.types import Preset, Register

PAPER = "arXiv:2507.18071, section 5.1"


@hookimpl
def register_presets(register: Register) -> None:
    register("gspo", GSPO)


GSPO = Preset(
    description="GSPO: importance ratios of whole sequences, with their own clip ranges.",
    command="grpo",
    values={
        "loss_type": "grpo",
        "importance_sampling_level": "sequence",
        "scale_rewards": "group",
        "epsilon": 3e-4,
        "epsilon_high": 4e-4,
        "beta": 0.0,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 4,
    },
    sources={
        "loss_type": "arXiv:2507.18071, equation 5: a mean over the group",
        "importance_sampling_level": "arXiv:2507.18071, equation 7",
        "scale_rewards": "arXiv:2507.18071, equation 6",
        "epsilon": PAPER,
        "epsilon_high": PAPER,
        "beta": "arXiv:2507.18071, section 2, which leaves the KL term out",
        "gradient_accumulation_steps": "ours: so that steps_per_generation counts updates",
        "steps_per_generation": f"{PAPER}: each rollout is parted into four mini-batches",
    },
    notes=(
        "It differs from GRPO only where several updates are made of one rollout: keep "
        "steps_per_generation four times gradient_accumulation_steps.",
        "The paper gives no learning rate, group size or lengths: set them, or they are TRL's.",
    ),
)
