"""Embedded tasks: questions with one right answer, as rows for each kind of training.

Every question belongs to one split for good, whatever size and seed, so that held-out questions
are never trained on.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from trl_deepseek.errors import DataError
from trl_deepseek.types import DatasetKind

if TYPE_CHECKING:
    from datasets import Dataset

HELD_OUT_SHARE = 0.1  # of the questions


@dataclass(frozen=True)
class Question:
    """A question and what can be answered to it.

    Attributes:
        text: What the user says.
        solution: The right answer, as rewards compare it.
        at_once: An answer that is right.
        with_steps: The same after its derivation inside ``<think>...</think>``.
        wrong: Answers that are wrong.
        identity: Questions of one identity are in one split; the text where it is empty.
    """

    text: str
    solution: str
    at_once: str
    with_steps: str
    wrong: tuple[str, ...]
    identity: str = ""


@dataclass(frozen=True)
class Task:
    """A dataset builder, as ``register_datasets`` takes it.

    Attributes:
        name: For messages.
        questions: All questions, of both splits, in random order, and again without end.
        steps_share: Of the demonstrations, those that show their steps; the others answer at once.
        sizes: Rows of each split when no size is given.
    """

    name: str
    questions: Callable[[random.Random], Iterator[Question]]
    steps_share: float
    sizes: Mapping[str, int]

    def rows(self, split: str, kind: DatasetKind, size: int | None, seed: int) -> Dataset:
        """Questions of one split in the shape that a kind of training needs.

        Args:
            split: ``train`` or ``test`` (held out); no question is in both.
            kind: ``demonstrations`` (prompt, completion), ``preferences`` (prompt, chosen,
                rejected: the right answer with steps against a wrong one) or ``prompts`` (prompt,
                solution).
            size: Rows; questions repeat only where it exceeds their number.
            seed: Of order, styles and wrong answers.

        Raises:
            DataError: Unknown split or kind, or a size below 1.
        """
        from datasets import Dataset

        if split not in self.sizes:
            splits = " and ".join(map(repr, self.sizes))
            raise DataError(f"{self.name} has no split {split!r}; its splits are {splits}")
        shapes = {
            "demonstrations": self._demonstration,
            "preferences": _preference,
            "prompts": _prompt,
        }
        if kind not in shapes:
            raise DataError(f"{self.name} has no kind {kind!r}; its kinds are {', '.join(shapes)}")
        if size is not None and size < 1:
            raise DataError(f"{self.name} cannot have {size} rows")
        chance = random.Random(f"{split} {kind} {seed}")
        of_split = (q for q in self.questions(chance) if _is_held_out(q) == (split == "test"))
        questions = list(islice(of_split, size or self.sizes[split]))
        return Dataset.from_list([shapes[kind](question, chance) for question in questions])

    def _demonstration(self, question: Question, chance: random.Random) -> dict[str, Any]:
        with_steps = chance.random() < self.steps_share
        answer = question.with_steps if with_steps else question.at_once
        return {"prompt": _user(question), "completion": _assistant(answer)}


def _is_held_out(question: Question) -> bool:
    identity = question.identity or question.text
    return zlib.crc32(identity.encode()) / 2**32 < HELD_OUT_SHARE


def _prompt(question: Question, chance: random.Random) -> dict[str, Any]:
    return {"prompt": _user(question), "solution": question.solution}


def _preference(question: Question, chance: random.Random) -> dict[str, Any]:
    return {
        "prompt": _user(question),
        "chosen": _assistant(question.with_steps),
        "rejected": _assistant(chance.choice(question.wrong)),
    }


def _user(question: Question) -> list[dict[str, str]]:
    return [{"role": "user", "content": question.text}]


def _assistant(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]
