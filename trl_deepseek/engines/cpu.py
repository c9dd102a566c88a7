"""What the CPU build of vLLM needs to have its weights replaced while it runs.

It packs the weights of linear layers as it loads them and drops the originals, so that no new ones
can be loaded. With plain linear layers they can.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from torch.nn import functional

_PACKS = "dispatch_cpu_unquantized_gemm"


@contextlib.contextmanager
def plain_linear_layers() -> Iterator[None]:
    """Within it, engines that are built on the CPU keep their linear layers as they are."""
    from vllm.model_executor.layers import utils

    kept = getattr(utils, _PACKS)
    holders = [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("vllm.") and getattr(module, _PACKS, None) is kept
    ]

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = functional.linear

    for module in holders:
        setattr(module, _PACKS, plain)
    try:
        yield
    finally:
        for module in holders:
            setattr(module, _PACKS, kept)
