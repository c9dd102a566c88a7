"""From a loss's name and options to one that is known to run, before a model is loaded.

Knows no loss by name: what a loss is defined on and which options it has is read from how it was
registered.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal

from trl_deepseek.errors import ConfigError, RunError, boundary, did_you_mean
from trl_deepseek.registry import Registry
from trl_deepseek.types import Loss

if TYPE_CHECKING:
    from torch import Tensor

DataShape = Literal["pairs", "unpaired", "rewards"]

# What a loss on each kind of data sees, and the command that trains with it.
SHAPES: Mapping[DataShape, tuple[str, str]] = {
    "pairs": ("the log-probs of preference pairs", "preference"),
    "unpaired": ("the log-probs of labelled single examples", "preference"),
    "rewards": ("the two scores of a reward model", "reward"),
}


def find(name: str, registry: Registry, *shapes: DataShape) -> Loss:
    """The loss called ``name``, which must be defined on one of ``shapes``.

    Raises:
        UnknownName: No plugin registers it.
        ConfigError: It is defined on something else.
    """
    loss = registry.losses[name]
    if loss.data not in shapes:
        sees, command = SHAPES[loss.data]
        fitting = [other for other, item in registry.losses.items() if item.data in shapes]
        raise ConfigError(
            f"loss_type {name!r} is defined on {sees}, not on {SHAPES[shapes[0]][0]}\n"
            f"  losses that fit: {', '.join(fitting) or '(none)'}; "
            f"{name!r} is for `trl-deepseek {command}`"
        )
    return loss


def check_options(loss: Loss, options: Mapping[str, Any]) -> None:
    """Refuse options that the loss does not have, or required ones that are not given.

    Raises:
        ConfigError: Names the option, the nearest that exists, and all with their defaults.
    """
    parameters = list(inspect.signature(loss.function).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = {parameter.name: parameter for parameter in parameters}
    listed = ", ".join(map(_described, parameters)) or "(none)"
    for option in options:
        if option not in known:
            hint = did_you_mean(option, known, inline=True)
            raise ConfigError(
                f"loss_kwargs: loss {loss.name!r} has no option {option!r}{hint}\n"
                f"  its options: {listed}"
            )
    missing = [p.name for p in known.values() if p.default is p.empty and p.name not in options]
    if missing:
        raise ConfigError(
            f"loss {loss.name!r} needs the option {missing[0]!r}: "
            f'loss_kwargs={{"{missing[0]}": ...}}\n  its options: {listed}'
        )


def rehearse(loss: Loss, batch: Any, options: Mapping[str, Any]) -> None:
    """Call the loss once on a made-up batch, so that bad values are refused before the run.

    Raises:
        ConfigError: The loss raises on it, or returns something that is no loss per sequence.
    """
    given = ", ".join(f"{name}={value!r}" for name, value in options.items())
    with boundary(ConfigError, f"loss {loss.name!r} does not run with {given or 'its defaults'}"):
        per_sequence(loss, batch, options)


def per_sequence(
    loss: Loss, batch: Any, options: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of each sequence or pair, (B,), and the metrics the loss returns.

    Args:
        loss: A registered loss.
        batch: What losses on its kind of data see; its first field is a tensor (B,).
        options: Passed to the loss as keyword arguments.

    Raises:
        RunError: It returned something else.
    """
    import torch

    returned = loss(batch, **options)
    values, metrics = returned if isinstance(returned, tuple) else (returned, {})
    size = getattr(batch, fields(batch)[0].name).shape
    if not isinstance(values, torch.Tensor) or values.shape != size:
        found = tuple(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        raise RunError(
            f"loss {loss.name!r} returned {found}, not one loss per sequence, {tuple(size)}\n"
            "  leave the mean to the trainer"
        )
    return values, metrics


def require_range(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> None:
    """Refuse an option that is not a number within these bounds; for losses to call.

    Raises:
        ValueError: Names the option, its value and the bounds.
    """
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (
            ("above", above),
            ("at least", at_least),
            ("below", below),
            ("at most", at_most),
        )
        if bound is not None
    ]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if (
        not is_number
        or not -float("inf") < value < float("inf")
        or (above is not None and value <= above)
        or (at_least is not None and value < at_least)
        or (below is not None and value >= below)
        or (at_most is not None and value > at_most)
    ):
        raise ValueError(f"{name} = {value!r}: it must be a number {' and '.join(bounds)}")


def _described(parameter: inspect.Parameter) -> str:
    has_default = parameter.default is not parameter.empty
    return f"{parameter.name}={parameter.default!r}" if has_default else parameter.name
