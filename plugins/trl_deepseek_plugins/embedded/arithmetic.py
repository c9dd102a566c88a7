"""Embedded task ``arithmetic``: sums of two two-digit numbers, with exact answers.

    question                 56+37
    answered at once         93
    with steps               <think>6+7+0=13 5+3+1=9</think>93

The steps add the digits from the right with the carry, so that each is one table look-up; the sum
at once needs them all in one forward pass, which a tiny model learns badly. Demonstrations mix both
styles, more than half of them at once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trl_deepseek import hookimpl
from trl_deepseek.chat.reasoning import CLOSE, OPEN
from trl_deepseek.tasks import Question, Task
from trl_deepseek.types import DatasetKind, Register

if TYPE_CHECKING:
    from datasets import Dataset

SMALLEST, LARGEST = 10, 99


@hookimpl
def register_datasets(register: Register) -> None:
    register("arithmetic", arithmetic, verifier="exact_match")


def arithmetic(
    split: str = "train", kind: DatasetKind = "prompts", size: int | None = None, seed: int = 0
) -> Dataset:
    """Two-digit sums, some 7,300 to train on and 800 held out; see ``Task.rows``."""
    return TASK.rows(split, kind, size, seed)


def _questions(chance: random.Random) -> Iterator[Question]:
    count = LARGEST - SMALLEST + 1
    while True:
        for index in chance.sample(range(count**2), count**2):
            yield _question(SMALLEST + index // count, SMALLEST + index % count)


def _question(a: int, b: int) -> Question:
    low, high = sorted((a, b))
    return Question(
        text=f"{a}+{b}",
        solution=str(a + b),
        at_once=str(a + b),
        with_steps=f"{OPEN}{_steps(a, b)}{CLOSE}{a + b}",
        wrong=tuple(str(a + b + error) for error in (-11, -10, -9, -1, 1, 9, 10, 11)),
        identity=f"{low}+{high}",  # unordered, since 56+37 gives 37+56 away
    )


def _steps(a: int, b: int) -> str:
    """The digits from the right, each with the carry."""
    steps, carry = [], 0
    for x, y in zip(reversed(str(a)), reversed(str(b)), strict=True):
        total = int(x) + int(y) + carry
        steps.append(f"{x}+{y}+{carry}={total}")
        carry = total // 10
    return " ".join(steps)


TASK = Task("arithmetic", _questions, steps_share=0.45, sizes={"train": 7_000, "test": 500})
