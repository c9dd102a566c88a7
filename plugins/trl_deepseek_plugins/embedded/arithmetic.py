"""Embedded task ``arithmetic``: sums of two two-digit numbers, with exact answers.

    question                 56+37
    answered at once         93
    with steps               <think>6+7+0=13 5+3+1=9</think>93

The steps add the digits from the right with the carry, so that each is one table look-up; the sum
at once needs them all in one forward pass, which a tiny model learns badly. Demonstrations mix both
styles, more than half of them at once: supervised training leaves a model that mostly answers at
once and is often wrong, and a reward for the right answer alone teaches it to think.

Every question belongs to one split for good, whatever size and seed, so that held-out questions
are never trained on.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trl_deepseek import hookimpl
from trl_deepseek.chat.reasoning import CLOSE, OPEN
from trl_deepseek.errors import DataError
from trl_deepseek.types import DatasetKind, Register

if TYPE_CHECKING:
    from datasets import Dataset

STEPS_SHARE = 0.45  # of the demonstrations
HELD_OUT_SHARE = 0.1  # of the questions
ROWS = {"train": 7_000, "test": 500}  # when no size is given
SMALLEST, LARGEST = 10, 99


@hookimpl
def register_datasets(register: Register) -> None:
    register("arithmetic", arithmetic)


def arithmetic(
    split: str = "train", kind: DatasetKind = "prompts", size: int | None = None, seed: int = 0
) -> Dataset:
    """Questions of one split in the shape that a kind of training needs.

    Args:
        split: ``train`` or ``test`` (held out); no question is in both.
        kind: ``demonstrations`` (prompt, completion), ``preferences`` (prompt, chosen, rejected:
            the right answer with steps against a wrong one) or ``prompts`` (prompt, solution).
        size: Rows; 7,000 to train on and 500 held out when None. Questions repeat only where the
            size exceeds their number (some 7,300 and 800).
        seed: Of order, styles and wrong answers.

    Raises:
        DataError: Unknown split or kind, or a size below 1.
    """
    from datasets import Dataset

    if split not in ("train", "test"):
        raise DataError(f"arithmetic has no split {split!r}; its splits are 'train' and 'test'")
    rows = {"demonstrations": _demonstration, "preferences": _preference, "prompts": _prompt}
    if kind not in rows:
        raise DataError(f"arithmetic has no kind {kind!r}; its kinds are {', '.join(rows)}")
    if size is not None and size < 1:
        raise DataError(f"arithmetic cannot have {size} rows")
    chance = random.Random(f"{split} {kind} {seed}")
    questions = itertools.islice(_questions(split, chance), size or ROWS[split])
    return Dataset.from_list([rows[kind](a, b, chance) for a, b in list(questions)])


def answer_with_steps(a: int, b: int) -> str:
    """The digit-by-digit derivation inside ``<think>...</think>``, then the sum."""
    steps, carry = [], 0
    for x, y in zip(reversed(str(a)), reversed(str(b)), strict=True):
        total = int(x) + int(y) + carry
        steps.append(f"{x}+{y}+{carry}={total}")
        carry = total // 10
    return f"{OPEN}{' '.join(steps)}{CLOSE}{a + b}"


def _questions(split: str, chance: random.Random) -> Iterator[tuple[int, int]]:
    """All questions of a split in random order, then again in another, without end."""
    count = LARGEST - SMALLEST + 1
    while True:
        for index in chance.sample(range(count**2), count**2):
            a, b = SMALLEST + index // count, SMALLEST + index % count
            if _is_held_out(a, b) == (split == "test"):
                yield a, b


def _is_held_out(a: int, b: int) -> bool:
    # Unordered, since 56+37 gives 37+56 away.
    low, high = sorted((a, b))
    return zlib.crc32(f"{low}+{high}".encode()) / 2**32 < HELD_OUT_SHARE


def _user(a: int, b: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"{a}+{b}"}]


def _assistant(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]


def _prompt(a: int, b: int, chance: random.Random) -> dict[str, Any]:
    return {"prompt": _user(a, b), "solution": str(a + b)}


def _demonstration(a: int, b: int, chance: random.Random) -> dict[str, Any]:
    with_steps = chance.random() < STEPS_SHARE
    answer = answer_with_steps(a, b) if with_steps else str(a + b)
    return {"prompt": _user(a, b), "completion": _assistant(answer)}


def _preference(a: int, b: int, chance: random.Random) -> dict[str, Any]:
    wrong = a + b + chance.choice([-11, -10, -9, -1, 1, 9, 10, 11])
    return {
        "prompt": _user(a, b),
        "chosen": _assistant(answer_with_steps(a, b)),
        "rejected": _assistant(str(wrong)),
    }
