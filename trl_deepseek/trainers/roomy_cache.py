"""A cache of keys and values with room behind them, so that a new token is written beside them.

transformers' growing cache concatenates: every token that is sampled reads and writes the keys and
values of all tokens before it once more, in every layer. Its static one has the whole length from
the start, and attention reads all of it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens of room that are made at once: a copy for so many tokens, and memory for so many more."""


def roomy_cache(config: PreTrainedConfig) -> DynamicCache:
    """An empty cache for a model of ``config``, to whose layers tokens are appended in place."""
    cache = DynamicCache(config=config)
    for layer in cache.layers:
        layer.__class__ = RoomyLayer
    return cache


class RoomyLayer(DynamicLayer):
    """A layer whose ``keys`` and ``values`` are the beginnings of longer tensors."""

    keys: Tensor
    values: Tensor
    _roomy: tuple[Tensor, ...] = ()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append (B, H, n, D) keys and values to the T before; (B, H, T + n, D) of both."""
        if not self.is_initialized:
            return super().update(key_states, value_states, *args, **kwargs)
        seen, new = (self.keys, self.values), (key_states, value_states)
        start, end = seen[0].shape[-2], seen[0].shape[-2] + new[0].shape[-2]
        # Rows that were selected or repeated meanwhile are tensors of their own, without room.
        if not self._roomy or not all(map(_begins, seen, self._roomy)):
            self._roomy = seen
        if end > self._roomy[0].shape[-2]:
            self._roomy = tuple(_lengthened(each, end + ROOM) for each in seen)
        for longer, states in zip(self._roomy, new, strict=True):
            longer[..., start:end, :] = states
        self.keys, self.values = (longer[..., :end, :] for longer in self._roomy)
        return self.keys, self.values


def _begins(seen: Tensor, longer: Tensor) -> bool:
    """Whether ``seen`` is the beginning of ``longer``, of all its rows."""
    return (
        seen.data_ptr() == longer.data_ptr()
        and seen.stride() == longer.stride()
        and seen.shape[:2] == longer.shape[:2]
    )


def _lengthened(seen: Tensor, length: int) -> Tensor:
    """(B, H, T, D) as the beginning of ``length`` tokens, of which the others are not written."""
    longer = seen.new_empty((*seen.shape[:-2], length, seen.shape[-1]))
    longer[..., : seen.shape[-2], :] = seen
    return longer
