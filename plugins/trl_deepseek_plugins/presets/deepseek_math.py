"""DeepSeekMath, arXiv:2402.03300: the first GRPO, on questions of GSM8K and MATH."""

from __future__ import annotations

from trl_deepseek import hookimpl
from trl_deepseek.types import Preset, Register

PAPER = "arXiv:2402.03300, section 4.2"


@hookimpl
def register_presets(register: Register) -> None:
    register("deepseek-math-grpo", GRPO)


GRPO = Preset(
    description="DeepSeekMath 7B's GRPO with outcome rewards.",
    command="grpo",
    values={
        "loss_type": "grpo",
        "scale_rewards": "group",
        "use_bias_correction_kl": False,
        "learning_rate": 1e-6,
        "beta": 0.04,
        "num_generations": 64,
        "max_completion_length": 1024,
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 64,
        "num_iterations": 1,
    },
    sources={
        "loss_type": "arXiv:2402.03300, equation 3: a mean over each output, then over the group",
        "scale_rewards": "arXiv:2402.03300, section 4.1.2",
        "use_bias_correction_kl": "arXiv:2402.03300, equation 4: the estimate without a ratio",
        "learning_rate": PAPER,
        "beta": PAPER,
        "num_generations": PAPER,
        "max_completion_length": f"{PAPER}: 'the max length is set to 1024'",
        "per_device_train_batch_size": "ours: 16 by 64 steps of accumulation make the paper's 1024",
        "gradient_accumulation_steps": f"{PAPER}: batch size 1024, on one process",
        "num_iterations": f"{PAPER}: 'a single update following each exploration stage'",
    },
    notes=(
        "The paper does not give the clip range epsilon: it stays at TRL's default.",
        "The paper scores with a trained reward model: --reward_funcs model:FOLDER; a rule, such "
        "as math_accuracy, is what its successors take.",
        "Process rewards (section 4.1.3) and iterated reward models (4.1.4) are not in TRL.",
    ),
)
