"""Call any form of reward as TRL calls a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from trl_deepseek.rewards.signature import name_of, signature_of
from trl_deepseek.types import Reward


def as_batch(function: Callable[..., Any], **extra: Any) -> Callable[..., Any]:
    """A function in TRL's batch form that scores as ``function`` does.

    Args:
        function: A reward in either form, sync or async, registered or not.
        extra: Keywords to pass beside TRL's, to functions that take them.

    Returns:
        A function, a coroutine function where the reward is one, under the reward's own name.

    Raises:
        ConfigError: ``function`` cannot be called as a reward.
    """
    signature = signature_of(function)
    inner = function.function if isinstance(function, Reward) else function

    def call(**arguments: Any) -> Any:
        arguments.update(extra)
        if not signature.per_sample:
            return inner(**signature.select(arguments))
        return [inner(**sample) for sample in signature.samples(arguments)]

    async def call_async(**arguments: Any) -> Any:
        result = call(**arguments)
        return await asyncio.gather(*result) if signature.per_sample else await result

    batch = call_async if signature.is_async else call
    batch.__name__ = batch.__qualname__ = name_of(function)
    return batch
