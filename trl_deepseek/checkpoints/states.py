"""What plugins remember from step to step: ``state_dict()`` and ``load_state_dict(state)``.

An object that offers both is asked for its state when a checkpoint is saved and given it back when
a run goes on from there. The state is made of numbers, text, lists, dicts and tensors, as a
checkpoint is never unpickled into anything else.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from trl_deepseek.errors import RunError, boundary
from trl_deepseek.registry import SINGULAR, Registry
from trl_deepseek.workers.remembering import holder_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stateful:
    """How to ask for one object's state and give it back, wherever the object lives.

    Attributes:
        take: Returns the state.
        give: Takes it back.
        matters: Whether it is said when a checkpoint has none.
    """

    take: Callable[[], Any]
    give: Callable[[Any], None]
    matters: bool = True


def of_registry(registry: Registry) -> dict[str, Stateful]:
    """The registered objects with a state, but for rewards, which may live in other processes."""
    found = {}
    for entry in registry.entries():
        holder = None if entry.kind == "rewards" else holder_of(entry.item)
        if holder is not None:
            name = f"{SINGULAR[entry.kind]} {entry.name!r}"
            found[name] = Stateful(holder.state_dict, holder.load_state_dict)
    return found


def take(parts: Mapping[str, Stateful]) -> dict[str, Any]:
    """The state of each part, by its name.

    Raises:
        RunError: One cannot be asked, or holds what a checkpoint does not carry.
    """
    import torch

    held = {}
    for name, part in parts.items():
        with boundary(RunError, f"{name}: state_dict() failed"):
            held[name] = part.take()
        with boundary(
            RunError,
            f"{name}: its state cannot be kept in a checkpoint, which carries numbers, text, "
            "lists, dicts and tensors",
        ):
            packed = io.BytesIO()
            torch.save(held[name], packed)
            packed.seek(0)
            torch.load(packed, weights_only=True)
    return held


def give_back(parts: Mapping[str, Stateful], held: Mapping[str, Any], source: str) -> None:
    """Give each part its state back; one that the checkpoint has none of is named.

    Raises:
        RunError: One does not take it.
    """
    lost = [name for name, part in parts.items() if part.matters and name not in held]
    if lost:
        logger.warning("%s holds no state of %s: it begins anew", source, ", ".join(lost))
    for name, part in parts.items():
        if name in held:
            with boundary(RunError, f"{name}: load_state_dict() failed"):
                part.give(held[name])
