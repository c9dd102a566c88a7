"""A preference loss in ten lines, as a plugin file.

    trl-deepseek preference --plugins examples/custom_loss.py --loss_type square_hinge \
        --loss_kwargs '{"target": 2.0}' --model_name_or_path tiny-deepseek-llm \
        --dataset_name arithmetic --chat_template deepseek-v3

``plugins show square_hinge --plugins examples/custom_loss.py`` prints what its docstring says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import PairLogps, hookimpl
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


def square_hinge(logps: PairLogps, target: float = 1.0) -> Tensor:
    """Squared shortfall of the difference of log-ratios from ``target``, (B,).

    Formula: max(0, target - Δ)²,  Δ = log π(y⁺)/π_ref(y⁺) - log π(y⁻)/π_ref(y⁻)
    """
    return (target - (logps.chosen_ratio - logps.rejected_ratio)).clamp(min=0) ** 2


@hookimpl
def register_losses(register: Register) -> None:
    register("square_hinge", square_hinge, data="pairs", reference=True)
