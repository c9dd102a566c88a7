"""Options that nothing reads in the run at hand: found by rules, and said once.

A rule names options that count only where something else holds: the limits of a sampler that is not
used, the steps of an evaluation that never comes. Such an option is no reason to stop, as it
changes nothing; but whoever set it believes that it does. What depends on the machine, such as
settings of a GPU, is not judged.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rule:
    """Options that count only where something holds.

    Attributes:
        options: Their names.
        needs: What must hold, in words.
        holds: Whether it does, of whatever the options belong to.
    """

    options: tuple[str, ...]
    needs: str
    holds: Callable[[Any], bool]


@contextlib.contextmanager
def said_before() -> Iterator[None]:
    """Meanwhile nothing is said: of a trial, whose own options have put others out of use."""
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def tell(
    config: Any, rules: Iterable[Rule], run: Any, given: Collection[str] | None = None
) -> None:
    """Warn of each rule whose options are set and not read.

    Args:
        config: A dataclass with the options.
        rules: Of its options; names that it does not have are passed over.
        run: What the rules ask.
        given: Names that the user gave, where that is known; else those that are not as by default.
            What is given and as by default is nobody's mistake.
    """
    defaults = defaults_of(config)
    for rule in rules:
        idle = [
            name
            for name in rule.options
            if name in defaults
            and (given is None or name in given)
            and _is_set(getattr(config, name), defaults[name])
        ]
        if idle and not rule.holds(run):
            has, needs = ("has", "it needs") if len(idle) == 1 else ("have", "they need")
            named = " and ".join(idle)
            logger.warning("%s %s no effect here; %s %s", named, has, needs, rule.needs)


def defaults_of(config: Any) -> Mapping[str, Any]:
    """The default of each field; None where it has none."""
    return {
        each.name: each.default_factory()
        if each.default_factory is not MISSING
        else (None if each.default is MISSING else each.default)
        for each in fields(config)
    }


def _is_set(value: Any, default: Any) -> bool:
    return value is not None and value != default and value not in ([], {}, "")
