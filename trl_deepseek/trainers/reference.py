"""The reference of a policy in memory: a frozen copy of what the policy was before training.

TRL would load it anew from where the policy once came from, which fails where that is nowhere and
is wrong where it has been trained since. With an adapter TRL switches that off instead.
"""

from __future__ import annotations

from typing import Any

from trl_deepseek import models
from trl_deepseek.errors import ConfigError
from trl_deepseek.trainers.inputs import Inputs


class NoReference:
    """Stands for the reference model in TRL's constructor, so that it loads none."""


def reference_for(inputs: Inputs, ref_model: Any, *, needed: bool) -> Any:
    """What to hand to TRL as the reference model.

    A model in memory is copied: TRL would load it anew from where it once came from, which fails
    where it came from nowhere and is wrong where it has been trained since.

    Args:
        inputs: The trainer's.
        ref_model: What the caller gave.
        needed: Whether any loss of the run needs a reference.

    Raises:
        ConfigError: A reference is given, and nothing would look at it.
    """
    if not needed:
        if ref_model is not None:
            raise ConfigError(
                "ref_model: no loss of this run uses a reference model\n  leave ref_model out"
            )
        return NoReference()
    if ref_model is not None or inputs.args.precompute_ref_log_probs:
        return ref_model
    return copy_in_memory(inputs)


def copy_in_memory(inputs: Inputs) -> Any:
    """A frozen copy of a model in memory; None where TRL finds its reference by itself."""
    model = inputs.model
    if isinstance(model, str) or inputs.has_adapter or _is_sharded(model):
        return None
    return frozen_copy(model)


def frozen_copy(model: Any) -> Any:
    """A copy of ``model`` that is evaluated only."""
    copied = models.copy_of(model)
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied.eval()


def _is_sharded(model: Any) -> bool:
    """Whether DeepSpeed ZeRO-3 holds the weights in pieces, which cannot be copied."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())
