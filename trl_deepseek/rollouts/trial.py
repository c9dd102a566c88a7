"""Score completions with rewards outside a run, and measure how long that takes."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trl_deepseek.errors import ConfigError
from trl_deepseek.rewards.contract import plan
from trl_deepseek.rewards.own_rows import among_others, only, own_places
from trl_deepseek.rewards.resolving import is_function
from trl_deepseek.rewards.signature import name_of, signature_of
from trl_deepseek.types import Reward
from trl_deepseek.workers.calls import Outcome
from trl_deepseek.workers.inprocess import LoopRunner, ThreadRunner


@dataclass(frozen=True)
class Samples:
    """N completions and what a reward may want to know about each.

    Attributes:
        completions: Texts or messages.
        prompts: Texts or messages; None where they are not known.
        completion_ids: Tokens of each; None where they are not known.
        columns: The dataset's other columns.
        groups: For each the group of samples of one prompt that it belongs to; None where it is
            not known.
        options: What a trainer passes beside the columns: ``generation_prefix`` and the like.
    """

    completions: Sequence[Any]
    prompts: Sequence[Any] | None = None
    completion_ids: Sequence[Sequence[int]] | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    groups: Sequence[Hashable] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """What one reward made of N samples.

    Attributes:
        name: The reward's.
        outcomes: A score, None where it abstained, or a failure, per sample.
        seconds: Time per sample; a call that scores many counts for each with its share.
    """

    name: str
    outcomes: Sequence[Outcome]
    seconds: Sequence[float]


def score(function: Any, samples: Samples, timeout: float | None = None) -> Trial:
    """Score every sample with one reward, in this process.

    Args:
        function: As :func:`trl_deepseek.rewards.resolve` returns it.
        samples: What to score.
        timeout: Seconds that one call may take, unless the reward has its own limit.

    Raises:
        ConfigError: It is a reward model.
    """
    name = name_of(function)
    if not is_function(function):
        raise ConfigError(f"{name!r} is a reward model; only functions can be tried without a run")
    limit = getattr(function, "timeout", None)
    inner = function.function if isinstance(function, Reward) else function
    signature = signature_of(function)
    count = len(samples.completions)
    arguments = {
        **samples.options,
        "prompts": list(samples.prompts or [None] * count),
        "completions": list(samples.completions),
        "completion_ids": list(samples.completion_ids or []),
        **{column: list(values) for column, values in samples.columns.items()},
    }
    own = own_places(function, arguments)
    samplewise = signature.per_sample or getattr(function, "samplewise", False)
    calls, places = plan(signature, samplewise, only(arguments, own))
    kind = LoopRunner if signature.is_async else ThreadRunner
    runner = kind(inner, timeout if limit is None else limit)
    try:
        results = runner.run(calls)
    finally:
        runner.close()
    outcomes: list[Outcome] = []
    seconds: list[float] = []
    for call, result in zip(calls, results, strict=True):
        outcomes += result.outcomes
        seconds += [result.seconds / call.samples] * call.samples
    return Trial(
        name,
        among_others([outcomes[i] for i in places], own, count, None),
        among_others([seconds[i] for i in places], own, count, 0.0),
    )
