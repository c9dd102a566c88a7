"""The plain policy gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trl_deepseek import TokenLogps, hookimpl
from trl_deepseek.types import Register

if TYPE_CHECKING:
    from torch import Tensor


@hookimpl
def register_policy_losses(register: Register) -> None:
    register("gpg", gpg, reduction="global_tokens")


def gpg(tokens: TokenLogps) -> Tensor:
    """REINFORCE: no ratio, no clip, (B, T).

    Formula: -A·log π

    Source: arXiv:2504.02546 (GPG), equation 5; its factor α for groups without spread (equation 7)
        is ``drop_equal_groups``, and it takes ``advantage`` ``dr_grpo`` (equation 6).

    Args:
        tokens: Of B completions; several updates of one rollout are not corrected for.
    """
    return -tokens.advantage * tokens.logps
