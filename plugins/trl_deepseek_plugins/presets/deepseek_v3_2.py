"""DeepSeek-V3.2, arXiv:2512.02556: what keeps GRPO stable when it is scaled up."""

from __future__ import annotations

from trl_deepseek import hookimpl
from trl_deepseek.types import Preset, Register

PAPER = "arXiv:2512.02556, section 3.1"


@hookimpl
def register_presets(register: Register) -> None:
    register("deepseek-v3.2-grpo", GRPO)


GRPO = Preset(
    description="DeepSeek-V3.2's GRPO: unbiased KL, off-policy sequences masked.",
    command="grpo",
    values={
        "loss_type": "grpo",
        "scale_rewards": "none",
        "use_bias_correction_kl": True,
        "beta": 0.001,
        "off_policy_mask_threshold": 0.5,
    },
    sources={
        "loss_type": f"{PAPER}: a mean over each output, then over the group",
        "scale_rewards": f"{PAPER}: the advantage is the reward less the group's mean",
        "use_bias_correction_kl": f"{PAPER}, 'Unbiased KL Estimate'",
        "beta": "ours: the paper gives no number; arXiv:2501.12948, section 2.1, has this one",
        "off_policy_mask_threshold": "ours: the paper (equation 9) does not give its threshold; "
        "TRL's documentation begins with 0.5 nats per token",
    },
    notes=(
        "The paper gives no learning rate, group size or lengths: set them, or they are TRL's.",
        "For mathematics it finds a weak KL term, or none, to be better: --beta 0.",
        "Masking matters where several updates are made of one rollout: "
        "--steps_per_generation above gradient_accumulation_steps, or --num_iterations.",
        "Keep Routing and Keep Sampling Mask of the paper are not in TRL: sample with --top_p 1.",
    ),
)
