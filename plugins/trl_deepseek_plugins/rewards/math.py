"""Rewards for a right answer to a mathematical question, and for finding it in few tokens.

Right is what ``trl_deepseek.answers`` calls one answer, with math-verify's parser.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from trl_deepseek import hookimpl
from trl_deepseek.answers import checker, claims, restated, solution_text
from trl_deepseek.chat.reasoning import Completion, answer, token_counts
from trl_deepseek.rewards.columns import options_from_columns
from trl_deepseek.types import Register
from trl_deepseek.workers.time_limit import Unfinished, call_each


@hookimpl
def register_rewards(register: Register) -> None:
    register("math_accuracy", math_accuracy, columns=("solution",), samplewise=True)
    register("cosine_length", cosine_length, columns=("solution",), samplewise=True)
    register("length_penalty", length_penalty, columns=("solution",))


@options_from_columns("seconds")
def math_accuracy(
    completions: Sequence[Completion],
    solution: Sequence[object],
    generation_prefix: str | None = None,
    seconds: float = 5.0,
    prompts: Sequence[Any] | None = None,
    **_: object,
) -> list[float | None]:
    r"""1.0 where the answer equals the solution mathematically, else 0.0.

    The answer is found as in every first-party reward, see ``trl_deepseek.answers``: in
    ``<answer>``, in the last ``\boxed{}``, after ``####`` or "the answer is", else all of it, else
    the one number of its last sentence. Who gives several has to be right in all; who only repeats
    a formula of the question has not answered it. An answer that cannot be read, or not be
    compared within ``seconds``, scores 0.0. Abstains where the solution is missing or cannot be
    read, or not within ``seconds``.

    Range: 0.0 or 1.0.

    Source: math-verify, whose parser reads the formulas, behind TRL's ``accuracy_reward``.

    Differs: TRL's reads the reasoning too and wants LaTeX, takes the first number of a bare
    solution for all of it, and rounds to six decimals; its time limit holds neither outside the
    main thread nor inside C code.
    """
    golds = ["" if gold is None else answer(str(gold)) for gold in solution]
    asked = prompts if prompts is not None else [None] * len(completions)
    answers = []
    for completion, prompt, gold in zip(completions, asked, golds, strict=True):
        found = claims(answer(completion, generation_prefix), prompt)
        own = solution_text(gold)
        answers.append(() if any(restated(a, prompt, own) for a in found) else tuple(found))
    pairs = list(dict.fromkeys(zip(golds, answers, strict=True)))  # samples often repeat
    right = dict(zip(pairs, call_each(checker, pairs, seconds), strict=True))
    for gold, given in pairs:
        if isinstance(right[gold, given], Unfinished):
            # Which of the two took too long? Without an answer only the solution is read.
            (readable,) = call_each(checker, [(gold, ())], seconds)
            right[gold, given] = None if isinstance(readable, Unfinished) else readable
    verdicts = [right[pair] for pair in zip(golds, answers, strict=True)]
    return [None if verdict is None else float(verdict) for verdict in verdicts]


@options_from_columns("max_length", "wrong", "correct")
def cosine_length(
    completions: Sequence[Completion],
    solution: Sequence[object],
    completion_ids: Sequence[Sequence[int]],
    generation_prefix: str | None = None,
    max_length: int | None = None,
    wrong: tuple[float, float] = (-1.0, -0.5),
    correct: tuple[float, float] = (1.0, 0.5),
    max_completion_length: int | None = None,
    prompts: Sequence[Any] | None = None,
    **_: object,
) -> list[float | None]:
    """Right answers earn more when short, wrong ones lose less when long; half a cosine between.

    At no tokens a completion scores the first of its pair, at ``max_length`` and beyond the
    second. Right is what :func:`math_accuracy` says; it abstains where that does.

    Formula: end + (start - end) · (1 + cos(π · min(tokens / max_length, 1))) / 2

    Range: -1.0 to 1.0.

    Source: arXiv:2502.03373, appendix C.1, with the bounds of TRL's ``get_cosine_scaled_reward``,
    whose scores these are.

    Differs: open-r1's ``cosine`` counts characters and rises again past the end.

    Args:
        completions: TRL's.
        solution: As in :func:`math_accuracy`.
        completion_ids: Tokens of each completion.
        generation_prefix: What the prompt has opened.
        max_length: Tokens at which the curve ends; when None, the run's
            ``max_completion_length``.
        wrong: Scores of a wrong answer at no tokens and at ``max_length``.
        correct: Scores of a right answer at no tokens and at ``max_length``.
        max_completion_length: Passed by our trainer.
        prompts: TRL's.

    Raises:
        ValueError: ``max_length`` is neither given nor known from the run, or there are no token
            ids.
    """
    limit = max_length if max_length is not None else max_completion_length
    if not limit:
        raise ValueError(
            "cosine_length needs max_length: register functools.partial(cosine_length, "
            "max_length=...) under a name of your own"
        )
    scores: list[float | None] = []
    lengths = token_counts(completions, completion_ids)
    right = math_accuracy(completions, solution, generation_prefix, prompts=prompts)
    for length, found in zip(lengths, right, strict=True):
        start, end = correct if found else wrong
        share = (1 + math.cos(math.pi * min(length / limit, 1.0))) / 2  # 1 when short, 0 when long
        scores.append(None if found is None else end + (start - end) * share)
    return scores


def length_penalty(
    completions: Sequence[Completion],
    solution: Sequence[object],
    completion_ids: Sequence[Sequence[int]],
    prompts: Sequence[Any],
    generation_prefix: str | None = None,
    **_: object,
) -> list[float | None]:
    """0.5 for the shortest completion of a prompt, -0.5 for the longest; nothing above 0 if wrong.

    The least and most are taken among the completions of one prompt, of those that this process
    scores. All score 0.0 where all are equally long. Right is what :func:`math_accuracy` says; it
    abstains where that does.

    Formula: λ = 0.5 - (tokens - least) / (most - least); λ if right, else min(0, λ)

    Range: -0.5 to 0.5.

    Source: Kimi k1.5, arXiv:2501.12599, section 2.3.3.

    Differs: open-r1's ``length`` compares across the whole batch, counts characters and takes an
    unreadable solution for a right answer.

    Raises:
        ValueError: There are no token ids.
    """
    lengths = token_counts(completions, completion_ids)
    right = math_accuracy(completions, solution, generation_prefix, prompts=prompts)
    groups = [json.dumps(prompt, sort_keys=True, default=str) for prompt in prompts]
    within: dict[str, list[int]] = {}
    for group, length in zip(groups, lengths, strict=True):
        within.setdefault(group, []).append(length)
    scores: list[float | None] = []
    for group, length, found in zip(groups, lengths, right, strict=True):
        least, most = min(within[group]), max(within[group])
        share = 0.5 - (length - least) / (most - least) if most > least else 0.0
        scores.append(None if found is None else share if found else min(0.0, share))
    return scores
