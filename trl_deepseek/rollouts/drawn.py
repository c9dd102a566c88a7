"""Completions drawn for one prompt with their scores, and the rows for training made of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Kind = Literal["all", "best", "pairs"]
Said = Callable[[str], Any]  # from a completion's text to what a row has: text or messages
Fault = Callable[[Mapping[str, Any]], str | None]  # what training would object to in a row

COLUMN = "sampled"  # of the rows, with where each comes from
# Columns by which a row is taken for another kind of row: they give way to what was drawn.
REPLACED = (
    *("completion", "chosen", "rejected", "label", "margin", "messages", "conversations", "text"),
    *("instruction", "output", "input_ids", COLUMN),
)


@dataclass(frozen=True)
class Drawn:
    """The n completions of one prompt.

    Attributes:
        prompt: Number of its row in the data, from 0.
        texts: Of the completions, in the order in which they were drawn.
        tokens: How many each has, its end of turn included.
        finished: Whether each was ended by the model, and not cut off.
        scores: Of each reward, one per completion; None where it abstained or failed.
        failed: Of each reward that failed, on which completions.
    """

    prompt: int
    texts: list[str]
    tokens: list[int]
    finished: list[bool]
    scores: dict[str, list[float | None]] = field(default_factory=dict)
    failed: dict[str, list[int]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """As a line of a file has it."""
        return asdict(self)

    def totals(self, weights: Sequence[float]) -> list[float | None]:
        """The weighted sum of each completion's scores, without those that abstained.

        None where no reward scored it, or where one failed: then its sum is not to be compared.
        """
        without = {place for places in self.failed.values() for place in places}
        found: list[float | None] = []
        for place in range(len(self.texts)):
            known = [
                weight * score
                for weight, scores in zip(weights, self.scores.values(), strict=True)
                if (score := scores[place]) is not None
            ]
            found.append(sum(known) if known and place not in without else None)
        return found


@dataclass(frozen=True)
class Selection:
    """What becomes a row.

    Attributes:
        kind: ``all`` completions, the ``best`` of each prompt, or ``pairs`` of its best and worst.
        best: How many of a prompt, of kind ``best``.
        min_reward: What a completion that is kept, or chosen, scores at least; None for no floor.
        weights: Of each reward in the total, in their order.
    """

    kind: Kind = "all"
    best: int = 1
    min_reward: float | None = None
    weights: tuple[float, ...] = ()

    def rows(
        self,
        drawn: Drawn,
        row: Mapping[str, Any],
        said: Said,
        provenance: Mapping[str, Any],
        fault: Fault,
        passed_over: Counter[str],
    ) -> list[dict[str, Any]]:
        """The rows of one prompt.

        What is to be trained on is whole: completions that were cut off, are empty, or which the
        check of training objects to are passed over.

        Args:
            drawn: Its completions.
            row: Of the data; its columns are kept but for :data:`REPLACED`.
            said: See :data:`Said`.
            provenance: What all rows say of how they were drawn.
            fault: See :data:`Fault`.
            passed_over: Counts what is passed over, by why.
        """
        kept = {name: value for name, value in row.items() if name not in REPLACED}
        totals = drawn.totals(self.weights)

        def origin(place: int) -> dict[str, Any]:
            return {
                "sample": place,
                "score": totals[place],
                "scores": {name: scores[place] for name, scores in drawn.scores.items()},
                "tokens": drawn.tokens[place],
                "finished": drawn.finished[place],
            }

        def single(place: int) -> dict[str, Any]:
            about = {COLUMN: {**provenance, "prompt": drawn.prompt, **origin(place)}}
            return {**kept, "completion": said(drawn.texts[place]), **about}

        if self.kind == "all":
            places = range(len(totals))
            if self.min_reward is None:
                return [single(place) for place in places]
            return [single(i) for i in places if self._reaches(totals[i], passed_over)]
        usable = self._usable(drawn, totals, lambda place: fault(single(place)), passed_over)
        ranked = sorted(usable, key=lambda place: -usable[place])  # the first drawn of equals first
        if self.kind == "best":
            good = [place for place in ranked if self._reaches(totals[place], passed_over)]
            return [single(place) for place in good[: self.best]]
        if not ranked or usable[ranked[0]] == usable[ranked[-1]]:
            passed_over["prompts whose completions do not differ in score"] += 1
            return []
        chosen, rejected = ranked[0], ranked[-1]
        if not self._reaches(totals[chosen], passed_over):
            return []
        about = {"chosen": origin(chosen), "rejected": origin(rejected)}
        return [
            {
                **kept,
                "chosen": said(drawn.texts[chosen]),
                "rejected": said(drawn.texts[rejected]),
                COLUMN: {**provenance, "prompt": drawn.prompt, **about},
            }
        ]

    def _reaches(self, total: float | None, passed_over: Counter[str]) -> bool:
        reached = self.min_reward is None or (total is not None and total >= self.min_reward)
        passed_over["below min_reward"] += not reached
        return reached

    def _usable(
        self,
        drawn: Drawn,
        totals: Sequence[float | None],
        fault: Callable[[int], str | None],
        passed_over: Counter[str],
    ) -> dict[int, float]:
        """The completions that can be trained on and compared, and their totals; each text once."""
        found: dict[int, float] = {}
        texts: set[str] = set()
        for place, (text, total) in enumerate(zip(drawn.texts, totals, strict=True)):
            if not drawn.finished[place]:
                why: str | None = "cut off at max_new_tokens"
            elif not text.strip():
                why = "empty"
            elif total is None:
                why = "without a score"
            elif text in texts:
                why = "the same text as another of its prompt"
            else:
                why = fault(place)
            if why is None and total is not None:
                found[place] = total
                texts.add(text)
            elif why is not None:
                passed_over[why] += 1
        return found
