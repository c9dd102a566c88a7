"""Several answers to a prompt: is one of them right, and is the most frequent one right?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trl_deepseek import hookimpl
from trl_deepseek.answers import claims
from trl_deepseek.chat.reasoning import answer
from trl_deepseek.pass_at import by_k, check, pass_at_k
from trl_deepseek.types import Register


@hookimpl
def register_metrics(register: Register) -> None:
    for name, function in (("pass_at_k", pass_at_k), ("maj_at_k", maj_at_k)):
        register(name, function, over="groups", judge="exact_match", check=check)


def maj_at_k(
    completions: Sequence[str],
    scores: Sequence[float | None],
    prompt: Any = None,
    generation_prefix: str | None = None,
    k: int | Sequence[int] | None = None,
    threshold: float = 1.0,
) -> float | dict[str, float] | None:
    """Share of prompts whose most frequent answer of k is right.

    An answer is found as in every first-party reward, see ``trl_deepseek.answers``, or is all that
    follows the reasoning; those are the same that are the same text. A completion without an answer
    is alone. Where several are most
    frequent, the mean over them counts. Of n answers, each k that follow one another are one vote,
    and the mean over the votes counts.

    Range: 0 to 1.

    Source: arXiv:2203.11171 (self-consistency); maj1@k of arXiv:2206.14858, section 3.2.

    Args:
        completions: The answers to one prompt.
        scores: Of the answers.
        prompt: What they answer.
        generation_prefix: What the prompt has opened.
        k: One number, or several; all of the answers when not given.
        threshold: The score from which an answer is right.
    """
    known = [
        (_said(text, prompt, generation_prefix) or f"none, number {place}", score >= threshold)
        for place, (text, score) in enumerate(zip(completions, scores, strict=True))
        if score is not None
    ]

    def share(size: int) -> float:
        votes = [known[i : i + size] for i in range(0, len(known) - size + 1, size)]
        return sum(map(_vote, votes)) / len(votes)

    return by_k(len(completions) if k is None else k, len(known), share)


def _said(completion: str, prompt: Any, generation_prefix: str | None) -> str:
    whole = answer(completion, generation_prefix)
    return " and ".join(dict.fromkeys(claims(whole, prompt))) or whole


def _vote(answers: Sequence[tuple[str, bool]]) -> float:
    counts: dict[str, list[bool]] = {}
    for text, is_right in answers:
        counts.setdefault(text, []).append(is_right)
    most = max(map(len, counts.values()))
    winners = [sum(own) / len(own) for own in counts.values() if len(own) == most]
    return sum(winners) / len(winners)
