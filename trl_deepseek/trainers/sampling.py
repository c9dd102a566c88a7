"""Sample the policy that is trained, and each prompt encoded once.

TRL samples with the model in training mode, so that the dropout of LoRA changes every rollout, and
before continuous batching it casts the model to 16 bits for good, which a quantized model refuses
and any other does not recover from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from trl_deepseek.trainers.merged import merged
from trl_deepseek.trainers.prefill import shared_prefill

if TYPE_CHECKING:
    from trl_deepseek.segments import PrefixSharing


class SampledAsTrained:
    """Mixin in front of TRL's GRPO trainer: how ``generate`` is called."""

    model: Any
    _prefix_sharing: PrefixSharing

    def _generate_single_turn(self: Any, *args: Any, **kwargs: Any) -> Any:
        with contextlib.ExitStack() as stack:
            stack.enter_context(as_trained(self.model))
            sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
            if self._prefix_sharing.mode != "off" and not self.use_vllm and not sharded:
                stack.enter_context(shared_prefill(self.model))
                stack.enter_context(merged(self.model))
            return super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]


@contextlib.contextmanager
def as_trained(model: nn.Module) -> Iterator[None]:
    """Within it, dropout is off and casts of ``model`` to another dtype are ignored.

    Everything else about training mode stays as it is: gradient checkpointing is TRL's to switch.
    """
    dropouts = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.training]

    def keep(*_: Any, **__: Any) -> nn.Module:
        return model

    for module in dropouts:
        module.eval()
    vars(model)["to"] = keep
    try:
        yield
    finally:
        vars(model).pop("to")
        for module in dropouts:
            module.train()
