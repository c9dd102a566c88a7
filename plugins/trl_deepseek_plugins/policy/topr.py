"""REINFORCE off the policy, tapered: what was good is learned whatever it was sampled from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import TokenLogps, hookimpl
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_policy_losses(register: Register) -> None:
    register("topr", topr, reduction="sequence_sum")


def topr(tokens: TokenLogps) -> tuple[Tensor, dict[str, Tensor]]:
    """REINFORCE, where bad completions count by their importance, at most 1, (B, T).

    Good ones count fully, as in fine-tuning; of bad ones those that the policy has already moved
    away from are left alone, which keeps it from falling apart.

    Formula: -w·A·log π,  w = 1 where A ≥ 0, else min(π(y)/π_old(y), 1) without gradient

    Source: arXiv:2503.14286 (Tapered off-policy REINFORCE), section 3, equations 7 and 8.

    Differs: A is the run's advantage, where the paper has the reward, with a baseline or without;
        it is summed over a completion as there, while the paper's runs divide by its length.

    Args:
        tokens: Of B completions.
    """
    import torch

    log_weight = (tokens.log_ratio.detach() * tokens.mask).sum(dim=1, keepdim=True)
    weight = torch.where(tokens.advantage >= 0, 1.0, log_weight.clamp(max=0.0).exp())
    return -weight * tokens.advantage * tokens.logps, {"topr/weight_mean": weight}
