"""Embedded task ``cups``: follow a ball that lies under one of five cups through five swaps.

    question                 3, a12, b45, c13, d23, e35
    answered at once         #### 1
    with steps               <think>3a12>3b45>3c13>1d23>1e35>1</think>#### 1

A question is the ball's cup and the swaps, each with a letter of its own. A step is the swap copied
and the ball's cup after it, right beside the cup before: one look-up. The letter says which swap to
copy next, and so does its place: a swap takes five characters in the question as in the steps, so
that each is copied from equally far back, which a small model learns early whatever its seed. At
once, all swaps have to be followed in one forward pass, one after another,
for which a model of a few layers has not the depth: it stays near the 0.2 of a guess, whatever seed
or processor. Demonstrations mix both styles, most of them at once, so that supervised training
leaves a model that guesses, and a reward for the right answer alone teaches it to think. The answer
stands after GSM8K's mark, which every first-party reward reads, so that all answers at once begin
alike: their first token has their whole share, and none is opened by ``<think>`` by accident.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

from trl_deepseek import hookimpl
from trl_deepseek.chat.reasoning import CLOSE, OPEN
from trl_deepseek.tasks import Question, Task
from trl_deepseek.types import DatasetKind, Register

if TYPE_CHECKING:
    from datasets import Dataset

CUPS = range(1, 6)
SWAPS = 5
PAIRS = tuple(combinations(CUPS, 2))
MARK = "#### "

Pair = tuple[int, int]


@hookimpl
def register_datasets(register: Register) -> None:
    register("cups", cups, verifier="exact_match")


def cups(
    split: str = "train", kind: DatasetKind = "prompts", size: int | None = None, seed: int = 0
) -> Dataset:
    """Balls to follow, some 450,000 to train on and 50,000 held out; see ``Task.rows``."""
    return TASK.rows(split, kind, size, seed)


def _questions(chance: random.Random) -> Iterator[Question]:
    while True:
        for index in _shuffled(len(CUPS) * len(PAIRS) ** SWAPS, chance):
            index, start = divmod(index, len(CUPS))
            swaps = []
            for _ in range(SWAPS):
                index, pair = divmod(index, len(PAIRS))
                swaps.append(PAIRS[pair])
            yield _question(CUPS[start], swaps)


def _shuffled(count: int, chance: random.Random) -> Iterator[int]:
    """The numbers below ``count`` in random order, each drawn when it is asked for."""
    moved: dict[int, int] = {}  # of a Fisher-Yates shuffle, what is not where it was
    for last in reversed(range(count)):
        place = chance.randrange(last + 1)
        yield moved.get(place, place)
        moved[place] = moved.pop(last, last)


def _question(start: int, swaps: list[Pair]) -> Question:
    named = [f"{letter}{x}{y}" for letter, (x, y) in zip(string.ascii_letters, swaps, strict=False)]
    ball, steps = start, str(start)
    for name, (x, y) in zip(named, swaps, strict=True):
        ball = {x: y, y: x}.get(ball, ball)
        steps += f"{name}>{ball}"
    return Question(
        text=", ".join([str(start), *named]),
        solution=str(ball),
        at_once=f"{MARK}{ball}",
        with_steps=f"{OPEN}{steps}{CLOSE}{MARK}{ball}",
        wrong=tuple(f"{MARK}{cup}" for cup in CUPS if cup != ball),
    )


TASK = Task("cups", _questions, steps_share=0.4, sizes={"train": 7_000, "test": 500})
