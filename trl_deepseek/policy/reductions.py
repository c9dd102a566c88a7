"""One number out of a loss per token, in the ways that a policy loss is registered for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def reduce(
    name: str, values: Tensor, mask: Tensor, *, steps: float, longest: int, window: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss of a micro-batch, to be added to those of the others, and what to report of it.

    Args:
        name: One of :data:`trl_deepseek.policy_types.REDUCTIONS`.
        values: (B, T); what stands at tokens that are not scored is not used.
        mask: Scored tokens, (B, T) bool.
        steps: Micro-batches that one update adds up.
        longest: ``max_completion_length``.
        window: Scored tokens of one update, over all its micro-batches, per process.
    """
    kept = values.masked_fill(~mask, 0.0)
    if name == "global_tokens":
        loss = kept.sum() / window
        return loss, loss.detach()
    lengths = mask.sum(dim=1).clamp(min=1)
    if name == "sequence_mean":
        loss = (kept.sum(dim=1) / lengths).mean()
    elif name == "sequence_sum":
        loss = kept.sum(dim=1).mean()
    elif name == "token_mean":
        loss = kept.sum() / mask.sum().clamp(min=1)
    else:  # constant
        loss = kept.sum() / (len(kept) * longest)
    return loss / steps, loss.detach()
