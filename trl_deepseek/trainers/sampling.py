"""Sample the policy that is trained, and each prompt encoded once.

TRL samples with the model in training mode, so that the dropout of LoRA changes every rollout, and
before continuous batching it casts the model to 16 bits for good, which a quantized model refuses
and any other does not recover from.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from trl_deepseek.trainers.merged import merged
from trl_deepseek.trainers.prefill import generating, shared_prefill

if TYPE_CHECKING:
    from trl_deepseek.segments import PrefixSharing


class SampledAsTrained:
    """Mixin in front of TRL's GRPO trainer: how ``generate`` is called."""

    model: Any
    _prefix_sharing: PrefixSharing

    def _generate_single_turn(self: Any, *args: Any, **kwargs: Any) -> Any:
        stop = not self.use_vllm and (self.args.generation_kwargs or {}).get("stop_strings")
        with contextlib.ExitStack() as stack:
            if stop:
                known = functools.partial(self.model.generate, tokenizer=self._tokenizer)
                stack.enter_context(generating(self.model, known))
            stack.enter_context(as_trained(self.model))
            sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
            if self._prefix_sharing.mode != "off" and not self.use_vllm and not sharded:
                stack.enter_context(shared_prefill(self.model))
                stack.enter_context(merged(self.model))
            ids, logps = super()._generate_single_turn(*args, **kwargs)  # type: ignore[misc]
        if stop:
            ids = [without_padding(each, stop, self._tokenizer) for each in ids]
        return ids, logps


def without_padding(ids: list[int], stop: str | list[str], tokenizer: Any) -> list[int]:
    """A completion without what stands behind the stop string that ended it.

    TRL looks for the token that ends a text; behind a stop string there is none, and so it would
    train on the padding up to the longest completion of the batch.
    """
    fillers = {tokenizer.pad_token_id, tokenizer.eos_token_id}
    end = next((n for n in range(len(ids), 0, -1) if ids[n - 1] not in fillers), 0)
    text = tokenizer.decode(ids[:end])
    return (
        ids[:end]
        if any(each in text for each in ([stop] if isinstance(stop, str) else stop))
        else ids
    )


@contextlib.contextmanager
def as_trained(model: nn.Module) -> Iterator[None]:
    """Within it, dropout is off and casts of ``model`` to another dtype are ignored.

    All parts are out of training mode, as dropout need not be a module of its own; the model itself
    stays in it, which TRL asks, and gradient checkpointing is TRL's to switch.
    """
    parts = [part for part in model.modules() if part.training and part is not model]

    def keep(*_: Any, **__: Any) -> nn.Module:
        return model

    for part in parts:
        part.training = False
    vars(model)["to"] = keep
    try:
        yield
    finally:
        vars(model).pop("to")
        for part in parts:
            part.training = True
