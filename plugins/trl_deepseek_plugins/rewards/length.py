"""Rewards for how long a completion is and how often it repeats itself, counted in tokens."""

from __future__ import annotations

from collections.abc import Sequence

from trl_deepseek import hookimpl
from trl_deepseek.chat.reasoning import token_counts
from trl_deepseek.rewards.columns import options_from_columns
from trl_deepseek.types import Register


@hookimpl
def register_rewards(register: Register) -> None:
    register("soft_overlong", soft_overlong, samplewise=True)
    register("repetition_penalty", repetition_penalty, samplewise=True)


@options_from_columns("max_length", "cache")
def soft_overlong(
    completions: Sequence[object],
    completion_ids: Sequence[Sequence[int]],
    max_length: int | None = None,
    cache: int | None = None,
    max_completion_length: int | None = None,
    **_: object,
) -> list[float]:
    """0.0 up to ``max_length - cache`` tokens, then falling to -1.0 at ``max_length`` and beyond.

    Formula: max(-1, (max_length - cache - tokens) / cache) past that, in a straight line.

    Range: -1.0 to 0.0.

    Source: DAPO, arXiv:2503.14476, equation 13; TRL's ``get_soft_overlong_punishment``.

    Args:
        completions: TRL's.
        completion_ids: Tokens of each completion.
        max_length: Tokens from which the punishment is whole; when None, the run's
            ``max_completion_length``.
        cache: Tokens before it over which it grows; when None a fifth of ``max_length``, the
            paper's 4,096 of 20,480.
        max_completion_length: Passed by our trainer.

    Raises:
        ValueError: ``max_length`` is neither given nor known from the run, or ``cache`` does not
            fit into it, or there are no token ids.
    """
    limit = max_length if max_length is not None else max_completion_length
    if limit is None:
        raise ValueError(
            "soft_overlong needs max_length: register functools.partial(soft_overlong, "
            "max_length=...) under a name of your own"
        )
    cache = limit // 5 if cache is None else cache
    if not 0 <= cache <= limit:
        raise ValueError(f"cache must lie between 0 and max_length = {limit}, not {cache}")
    return [
        max(-1.0, (limit - cache - length) / (cache or 1)) if length > limit - cache else 0.0
        for length in token_counts(completions, completion_ids)
    ]


@options_from_columns("ngram_size", "max_penalty")
def repetition_penalty(
    completions: Sequence[object],
    completion_ids: Sequence[Sequence[int]],
    ngram_size: int = 3,
    max_penalty: float = -1.0,
    **_: object,
) -> list[float]:
    """``max_penalty`` times the share of n-grams that repeat an earlier one; 0.0 with too few.

    Counted over tokens, so right in every language.

    Formula: max_penalty · (1 - distinct n-grams / n-grams)

    Range: ``max_penalty`` to 0.0.

    Source: arXiv:2502.03373, appendix C.2, and TRL's ``get_repetition_penalty_reward``.

    Differs: open-r1's of the same name counts words.

    Raises:
        ValueError: ``max_penalty`` is positive, ``ngram_size`` is not, or there are no token ids.
    """
    if max_penalty > 0 or ngram_size < 1:
        raise ValueError(
            f"max_penalty must not be positive and ngram_size must be, not {max_penalty} "
            f"and {ngram_size}"
        )
    token_counts(completions, completion_ids)
    scores = []
    for ids in completion_ids:
        total = len(ids) - ngram_size + 1
        distinct = len({tuple(ids[i : i + ngram_size]) for i in range(total)})
        repeated = 1 - distinct / total if total > 0 else 0.0
        scores.append(repeated * max_penalty if repeated else 0.0)
    return scores
