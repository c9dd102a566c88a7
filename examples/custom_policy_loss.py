"""A policy loss in ten lines, as a plugin file.

    trl-deepseek grpo --plugins examples/custom_policy_loss.py --loss_type soft_clip \
        --loss_kwargs '{"width": 0.3}' --model_name_or_path tiny-deepseek-llm \
        --dataset_name arithmetic --chat_template deepseek-v3 --reward_funcs exact_match

``plugins show soft_clip --plugins examples/custom_policy_loss.py`` prints what its docstring says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import TokenLogps, hookimpl
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


def soft_clip(tokens: TokenLogps, width: float = 0.2) -> Tensor:
    """REINFORCE, fading out where the policy has moved far, (B, T).

    Formula: -exp(-½·(log ρ / width)²)·A·log π,  ρ = π/π_old, the factor without gradient
    """
    fading = (-0.5 * (tokens.log_ratio.detach() / width) ** 2).exp()
    return -fading * tokens.advantage * tokens.logps


@hookimpl
def register_policy_losses(register: Register) -> None:
    register("soft_clip", soft_clip, reduction="global_tokens")
