"""Draw the completions of some prompts, and score them under the contract of training."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from trl_deepseek import generation
from trl_deepseek.generation import Sampling
from trl_deepseek.rewards.contract import GuardedReward
from trl_deepseek.rollouts.drawn import REPLACED, Drawn
from trl_deepseek.workers.calls import Failure, Outcome

logger = logging.getLogger(__name__)


class Drawing:
    """Draws from one model.

    Args:
        model: And its tokenizer, as ``generation.load`` gives them.
        tokenizer: See ``model``.
        sampling: How completions are drawn.
        guarded: The rewards; they are told the rows' columns.
    """

    def __init__(
        self, model: Any, tokenizer: Any, sampling: Sampling, guarded: Sequence[GuardedReward]
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.guarded = guarded
        self._said: set[str] = set()  # rewards that have failed

    def draw(self, rows: Sequence[dict[str, Any]], numbers: Sequence[int]) -> list[Drawn]:
        """The completions of each row's prompt, with their scores.

        Args:
            rows: With ``prompt``, columns for the rewards, and perhaps ``tools`` and
                ``chat_template_kwargs``.
            numbers: Of the rows in the data; what is drawn depends on them.

        Raises:
            RewardError: A reward has failed on everything several times in a row.
        """
        prompts = [row["prompt"] for row in rows]
        found = generation.complete(
            self.model, self.tokenizer, prompts, self.sampling, rows=rows, indices=numbers
        )
        each = self.sampling.num_samples
        flat = [completion for completions in found for completion in completions]
        outcomes = self._score(rows, [row for row in rows for _ in range(each)], flat)
        return [
            _drawn(number, flat[mine], {name: given[mine] for name, given in outcomes.items()})
            for place, number in enumerate(numbers)
            for mine in [slice(place * each, (place + 1) * each)]
        ]

    def _score(
        self,
        rows: Sequence[dict[str, Any]],
        repeated: Sequence[dict[str, Any]],
        flat: Sequence[Any],
    ) -> dict[str, list[Outcome]]:
        """By reward, what became of each completion."""
        columns = {
            name: [row[name] for row in repeated]
            for name in rows[0]
            if name not in ("prompt", *REPLACED)
        }
        outcomes = {}
        for reward in self.guarded:
            given = asyncio.run(
                reward.outcomes(
                    prompts=[row["prompt"] for row in repeated],
                    completions=[
                        as_completion(completion.text, row["prompt"])
                        for completion, row in zip(flat, repeated, strict=True)
                    ],
                    completion_ids=[list(completion.token_ids) for completion in flat],
                    **columns,
                )
            )
            outcomes[reward.__name__] = given
            failed = [outcome for outcome in given if isinstance(outcome, Failure)]
            if failed and reward.__name__ not in self._said:
                self._said.add(reward.__name__)
                logger.warning(
                    "reward %r failed on %d of %d completions, and more may follow: %s",
                    *(reward.__name__, len(failed), len(given), failed[0].message),
                )
        return outcomes


def as_completion(text: str, prompt: Any) -> Any:
    """A completion as rewards and rows have it: text behind text, else an assistant's message."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _drawn(number: int, completions: Sequence[Any], outcomes: dict[str, list[Outcome]]) -> Drawn:
    failed = {
        name: [place for place, outcome in enumerate(given) if isinstance(outcome, Failure)]
        for name, given in outcomes.items()
    }
    return Drawn(
        number,
        [completion.text for completion in completions],
        [len(completion.token_ids) for completion in completions],
        [completion.finished for completion in completions],
        {
            name: [None if isinstance(outcome, Failure) else outcome for outcome in given]
            for name, given in outcomes.items()
        },
        {name: places for name, places in failed.items() if places},
    )
