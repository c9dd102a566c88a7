"""The tasks of reasoning-gym: rows, splits, difficulty, mixtures and the library's own scores."""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from reasoning_gym import create_dataset
from reasoning_gym.factory import DATASETS

from trl_deepseek import load_registry
from trl_deepseek.errors import ConfigError, DataError
from trl_deepseek_plugins.gym.entries import unpacked

REGISTRY = load_registry()
REWARD = REGISTRY.rewards["reasoning_gym"]
SMALL: dict[str, Any] = {
    "min_numbers": 3,
    "max_numbers": 3,
    "min_value": 1,
    "max_value": 9,
    "min_target": 1,
    "max_target": 20,
    "operators": ["+", "-"],
}
CHEAP = (
    "gcd",
    "countdown",
    "word_sorting",
    "arc_1d",
    "rearc",
    "leg_counting",
    "bitwise_arithmetic",
)


@functools.cache
def drawn(split: str, seed: int, size: int = 40) -> list[dict[str, Any]]:
    rows = REGISTRY.datasets["reasoning_gym:countdown"](split=split, seed=seed, size=size, **SMALL)
    return list(rows)


def puzzle(row: dict[str, Any]) -> tuple[Any, ...]:
    metadata = unpacked(row["entry"])["metadata"]
    return tuple(sorted(metadata["numbers"])), metadata["target"]


def test_no_puzzle_is_in_both_splits_whatever_seed_wording_and_order() -> None:
    train = {puzzle(row) for seed in range(3) for row in drawn("train", seed)}
    held_out = {puzzle(row) for seed in range(3) for row in drawn("test", seed)}
    assert len(train) > 60
    assert len(held_out) > 20
    assert not train & held_out


def test_questions_are_different_and_seeds_draw_others() -> None:
    once, other = drawn("train", 0), drawn("train", 1)
    assert len({puzzle(row) for row in once}) == len(once)
    assert once == list(
        REGISTRY.datasets["reasoning_gym:countdown"](split="train", seed=0, size=40, **SMALL)
    )
    assert {puzzle(row) for row in once} != {puzzle(row) for row in other}


def test_options_are_the_difficulty() -> None:
    for row in drawn("train", 0):
        numbers, target = puzzle(row)
        assert (len(numbers), max(numbers) <= 9, 1 <= target <= 20) == (3, True, True)


def test_a_question_is_put_in_the_users_words() -> None:
    rows = REGISTRY.datasets["reasoning_gym:countdown"](
        size=3, question="{numbers} = {target}", **SMALL
    )
    for row in rows:
        metadata = unpacked(row["entry"])["metadata"]
        said = f"{' '.join(map(str, metadata['numbers']))} = {metadata['target']}"
        assert row["prompt"] == [{"role": "user", "content": said}]


def test_a_mixture_has_its_weights() -> None:
    tasks = {"gcd": 3, "countdown": {"weight": 1, **SMALL}}
    rows = REGISTRY.datasets["reasoning_gym"](size=20, tasks=tasks)
    names = [unpacked(row["entry"])["metadata"]["source_dataset"] for row in rows]
    assert Counter(names) == {"gcd": 15, "countdown": 5}
    assert names != sorted(names)


def test_a_curriculum_begins_with_the_easiest() -> None:
    rows = list(REGISTRY.datasets["reasoning_gym:gcd"](size=12, levels=[0, 3]))
    largest = [max(map(int, re.findall(r"\d+", row["prompt"][0]["content"]))) for row in rows]
    assert max(largest[:6]) < max(largest[6:])


@pytest.mark.parametrize("task", CHEAP)
def test_the_score_is_the_librarys(task: str) -> None:
    check(task)


@pytest.mark.matrix
@pytest.mark.parametrize("task", sorted({*DATASETS} - {*CHEAP, "composite"}))
def test_the_score_of_every_task_is_the_librarys(task: str) -> None:
    check(task)


# Of these the library draws others each time, or does not say which one it drew.
UNSEEDED = {"acre", "circuit_logic", "list_functions", "kakurasu", "survo"}


def check(task: str) -> None:
    """Right and wrong answers score as the library scores them on the entry as it made it."""
    row = REGISTRY.datasets[f"reasoning_gym:{task}"](size=1, seed=0)[0]
    entry = unpacked(row["entry"])
    index = 0 if task in UNSEEDED else entry["metadata"]["source_index"]
    library = create_dataset(task, seed=0, size=index + 1)
    if task not in UNSEEDED:
        entry = library[index]
        assert row["prompt"][0]["content"] == entry["question"]
    for text in (entry["answer"], "0"):
        if text is not None:
            score = REWARD(completion=f"<think>so</think>{text}", entry=row["entry"])
            try:
                expected = library.score_answer(text.strip(), entry)
            except TypeError:  # boxnet, of an answer that is no list of plans
                expected = 0.0
            assert score == pytest.approx(expected)


def countdown() -> str:
    entry = create_dataset("countdown", seed=0, size=1, **(SMALL | {"operators": ("+", "-")}))[0]
    from trl_deepseek_plugins.gym.entries import packed

    entry["metadata"] |= {"numbers": [3, 4, 5], "target": 2}
    return packed(entry)


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("<think>tries</think>\\boxed{3+4-5}", 1.0),
        ("<answer>4 - 5 + 3</answer>", 1.0),
        ("<think>tries</think>#### 3+4-5", 1.0),
        ("(3+4)-5", 1.0),
        ("#### 3+4+5", 0.05),
        ("#### 2", 0.05),
        ("<think>3+4-5", 0.0),
        ("#### 3+4-5\n#### 3+4+5", 0.05),
        ("#### 9**9**9**9", 0.0),
        ("", 0.0),
    ],
)
def test_an_answer_is_found_and_scored(said: str, score: float) -> None:
    assert REWARD(completion=said, entry=countdown()) == score


def test_what_is_no_formula_is_not_evaluated(tmp_path: Path) -> None:
    file = tmp_path / "made"
    said = f"#### __import__('pathlib').Path({str(file)!r}).touch() or 2"
    assert REWARD(completion=said, entry=countdown()) == 0.0
    assert not file.exists()


def test_wrong_names_and_options_are_refused() -> None:
    with pytest.raises(DataError, match="no task 'countdwn'\n  did you mean 'countdown'"):
        REGISTRY.datasets["reasoning_gym:countdwn"]()
    with pytest.raises(ConfigError, match="level and levels both say how hard"):
        REGISTRY.datasets["reasoning_gym:gcd"](size=2, level=1, levels=[1])
