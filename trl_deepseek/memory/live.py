"""Count the bytes that are alive while code runs on tensors without data.

PyTorch's fake tensors know shape and dtype but hold no data. Run under a :class:`LiveBytes`, a
forward and a backward pass of any model show what a real one would hold, whatever the architecture:
autograd's saved tensors, checkpointing, the work space of an attention kernel.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """While active: bytes of the storages that operations made and that something still holds.

    Args:
        known: Tensors that exist already, such as parameters; views on them count nothing.

    Attributes:
        now: Bytes alive.
        peak: The most that ``now`` has been since :meth:`restart`.
    """

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        self._alive: dict[int, weakref.ref[Any]] = {}
        self.now = 0
        self.peak = 0

    def restart(self) -> None:
        """Begin a new peak at what is alive now."""
        self.peak = self.now

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._see(leaf.untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known or key in self._alive:
            return
        size = storage.nbytes()
        self._alive[key] = weakref.ref(storage, functools.partial(self._forget, key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _forget(self, key: int, size: int, _: object) -> None:
        del self._alive[key]
        self.now -= size
