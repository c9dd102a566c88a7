"""Keep the policy that is sampled the policy that is trained.

TRL samples with the model in training mode, so that the dropout of LoRA changes every rollout, and
before continuous batching it casts the model to 16 bits for good, which a quantized model refuses
and any other does not recover from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn


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
