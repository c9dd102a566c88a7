"""A loss's name and options, checked against what was registered.

Knows no loss by name: what a loss is defined on and which options it has is read from how it was
registered.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

from trl_deepseek.errors import ConfigError, UnknownName, did_you_mean
from trl_deepseek.policy_types import CONTEXT, Advantage, PolicyLoss
from trl_deepseek.registry import Registry
from trl_deepseek.types import Loss

Registered = Loss | PolicyLoss | Advantage
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
    fitting = [other for other, item in registry.losses.items() if item.data in shapes]
    if name not in registry.losses:
        hint = did_you_mean(name, fitting)
        raise UnknownName(
            "losses",
            name,
            f"loss_type: no plugin registers a loss named {name!r}{hint}\n"
            f"  registered: {', '.join(fitting) or '(none)'}",
        )
    loss = registry.losses[name]
    if loss.data not in shapes:
        sees, command = SHAPES[loss.data]
        raise ConfigError(
            f"loss_type {name!r} is defined on {sees}, not on {SHAPES[shapes[0]][0]}\n"
            f"  losses that fit: {', '.join(fitting) or '(none)'}; "
            f"{name!r} is for `trl-deepseek {command}`"
        )
    return loss


def has_option(item: Registered, option: str) -> bool:
    """Whether what is registered takes an option of that name."""
    return any(
        parameter.name == option or parameter.kind is parameter.VAR_KEYWORD
        for parameter in _parameters(item)
    )


def check_options(
    item: Registered,
    options: Mapping[str, Any],
    *,
    kind: str = "loss",
    field: str = "loss_kwargs",
) -> None:
    """Refuse options that a loss does not have, or required ones that are not given.

    Args:
        item: The loss, or whatever else is registered with its options as keywords.
        options: By name.
        kind: What messages call it.
        field: Of the config, in which its options are given.

    Raises:
        ConfigError: Names the option, the nearest that exists, and all with their defaults.
    """
    known = {each.name: each for each in _parameters(item) if each.kind is not each.VAR_KEYWORD}
    listed = ", ".join(map(_described, known.values())) or "(none)"
    for option in options:
        if not has_option(item, option):
            hint = did_you_mean(option, known, inline=True)
            raise ConfigError(
                f"{field}: {kind} {item.name!r} has no option {option!r}{hint}\n"
                f"  its options: {listed}"
            )
    missing = [p.name for p in known.values() if p.default is p.empty and p.name not in options]
    if missing:
        raise ConfigError(
            f"{kind} {item.name!r} needs the option {missing[0]!r}: "
            f'{field}={{"{missing[0]}": ...}}\n  its options: {listed}'
        )


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


def _parameters(item: Registered) -> list[inspect.Parameter]:
    """Parameters of the registered function that are options: not what it sees."""
    parameters = list(inspect.signature(item.function).parameters.values())
    if isinstance(item, Advantage):
        return [each for each in parameters[2:] if each.name not in CONTEXT]
    return parameters[1:]


def _described(parameter: inspect.Parameter) -> str:
    has_default = parameter.default is not parameter.empty
    return f"{parameter.name}={parameter.default!r}" if has_default else parameter.name
