"""Options that a check has refused, set aside, so that it goes on to what else is wrong."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from trl_deepseek.errors import UserError
from trl_deepseek.jobs.places import option_of

T = TypeVar("T")

# Options that mean nothing, or something else, without the one that was set aside.
TOGETHER = {
    "loss_type": (
        *("loss_kwargs", "loss_weights", "beta", "label_smoothing", "desirable_weight"),
        *("undesirable_weight", "ld_alpha", "discopop_tau", "f_divergence_type", "use_weighting"),
    ),
    "reward_funcs": ("reward_weights",),
    "datasets": ("dataset_name",),
    "eval_dataset": ("eval_strategy", "load_best_model_at_end", "eval_metrics", "metric_kwargs"),
    "eval_metrics": ("metric_kwargs",),
    "metrics": ("metric_kwargs",),
}
# Of them, those that say something of each item of a list.
OF_EACH = ("reward_weights", "metric_kwargs")


def set_aside(
    options: argparse.Namespace, option: str, error: UserError, defaults: Mapping[str, Any]
) -> bool:
    """Take out the items of a list or mapping that a message quotes, or else the option itself.

    Args:
        options: As parsed; changed in place.
        option: What the message is about.
        error: With the message.
        defaults: What each option is when it is not given.

    Returns:
        Whether the option is gone as a whole.
    """
    value, line = getattr(options, option), str(error).partition("\n")[0]
    by_name = _mapping(value) if option in OF_EACH else None
    items = by_name or (value if isinstance(value, list) else [])
    quoted = [item for item in items if f"{item!r}" in line]
    kept: Any = None
    if quoted:
        rest = [item for item in items if item not in quoted]
        kept = rest if by_name is None else {name: by_name[name] for name in rest}
    setattr(options, option, kept or defaults[option])
    for name in TOGETHER.get(option, ()):
        if kept and name not in OF_EACH:
            continue
        if name in defaults:
            said = (_mapping(getattr(options, name)) if kept else None) or {}
            said = {item: each for item, each in said.items() if item not in quoted}
            setattr(options, name, said or defaults[name])
            if not said:
                options.given.discard(name)
    if not kept:
        options.given.discard(option)
    return not kept


def refusals(
    options: argparse.Namespace,
    defaults: Mapping[str, Any],
    check: Callable[[argparse.Namespace], T],
) -> tuple[list[UserError], T | None]:
    """All that a check refuses of options, and what it returns in the end.

    Args:
        options: As parsed; what is refused is set aside.
        defaults: What each option is when it is not given.
        check: Raises at the first mistake.

    Returns:
        The errors, and None where the check cannot go on without what was set aside.
    """
    wrong: list[UserError] = []
    aside: set[str] = set()
    while True:
        try:
            return wrong, check(options)
        except UserError as error:
            values = {name: getattr(options, name) for name in sorted(options.given)}
            option = option_of(error, {**defaults, **values})
            # Without an option, it is missing; and what was put in its place may be no better.
            if option in aside or error.args[0] in (each.args[0] for each in wrong):
                return wrong, None
            wrong.append(error)
            if option is None or option not in values:
                return wrong, None
            error.place = error.place or options.places.get(option)
            if set_aside(options, option, error, defaults):
                aside.add(option)


def _mapping(value: Any) -> dict[str, Any] | None:
    """The mapping that an option is, or that its JSON stands for; None where it is none."""
    with contextlib.suppress(ValueError):
        found = json.loads(value) if isinstance(value, str) else value
        return found if isinstance(found, dict) else None
    return None
