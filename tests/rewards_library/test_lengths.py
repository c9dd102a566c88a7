from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
from trl.rewards import (
    get_cosine_scaled_reward,
    get_repetition_penalty_reward,
    get_soft_overlong_punishment,
)

from trl_deepseek_plugins.rewards.length import repetition_penalty, soft_overlong
from trl_deepseek_plugins.rewards.math import cosine_length, length_penalty

LENGTHS = [0, 1, 50, 79, 80, 81, 90, 99, 100, 101, 200]
IDS = [[1] * length for length in LENGTHS]
SAID = [""] * len(LENGTHS)


@pytest.mark.parametrize(("most", "cache"), [(100, 20), (100, 0), (100, 100), (50, 7)])
def test_soft_overlong_is_trls(most: int, cache: int) -> None:
    expected = get_soft_overlong_punishment(most, cache)(IDS)
    assert soft_overlong(SAID, IDS, max_length=most, cache=cache) == pytest.approx(expected)


def test_soft_overlong_takes_the_runs_length_and_the_papers_share() -> None:
    expected = get_soft_overlong_punishment(100, 20)(IDS)
    assert soft_overlong(SAID, IDS, max_completion_length=100) == pytest.approx(expected)
    assert soft_overlong(SAID, IDS, max_length=100, max_completion_length=7) == expected


def test_soft_overlong_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="needs max_length: register"):
        soft_overlong(SAID, IDS)
    with pytest.raises(ValueError, match="between 0 and max_length = 10, not 11"):
        soft_overlong(SAID, IDS, max_length=10, cache=11)
    with pytest.raises(ValueError, match="11 completions but token ids of 0"):
        soft_overlong(SAID, [], max_length=10)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_repetition_penalty_is_trls(size: int) -> None:
    ids = [[], [1], [1, 2], [1, 2, 3, 4], [5] * 9, [1, 2, 3] * 5, [1, 2, 1, 2, 7]]
    expected = get_repetition_penalty_reward(size, -0.5)(ids)
    assert -0.5 < min(expected) < max(expected) == 0.0
    given = repetition_penalty([""] * len(ids), ids, ngram_size=size, max_penalty=-0.5)
    assert given == pytest.approx(expected)
    assert repetition_penalty([""], [[5] * 5], 2) == [-0.75]


def test_repetition_penalty_refuses_a_reward_for_repeating() -> None:
    with pytest.raises(ValueError, match="must not be positive"):
        repetition_penalty([], [], max_penalty=1.0)


@pytest.mark.parametrize("wrap", [False, True], ids=["strings", "messages"])
def test_cosine_length_is_trls(wrap: bool) -> None:
    texts = [r"\boxed{4}", r"\boxed{5}", r"\boxed{4}"] * 4
    messages = [[{"role": "assistant", "content": text}] for text in texts]
    solution = ["4", "4", "words and words but no expression at all"] * 4
    ids = [[1] * length for length in (0, 0, 0, 50, 50, 50, 100, 100, 100, 150, 150, 150)]
    expected = get_cosine_scaled_reward(100)(messages, solution, ids)
    assert expected[:3] == [1.0, -1.0, None]
    completions: Any = messages if wrap else texts
    given = cosine_length(completions, solution, ids, max_length=100)
    assert given == [value if value is None else pytest.approx(value) for value in expected]
    given = cosine_length(completions, solution, ids, max_completion_length=100)
    assert given == [value if value is None else pytest.approx(value) for value in expected]


def test_cosine_length_takes_its_bounds() -> None:
    reward = partial(cosine_length, max_length=10, wrong=(-10.0, 0.0), correct=(2.0, 1.0))
    texts, ids = [r"\boxed{4}", r"\boxed{5}"], [[1] * 5] * 2
    middle = [1.0 + 0.5 * (1 + math.cos(math.pi / 2)), -10.0 * 0.5 * (1 + math.cos(math.pi / 2))]
    assert reward(texts, ["4", "4"], ids) == pytest.approx(middle)
    with pytest.raises(ValueError, match="needs max_length"):
        cosine_length(texts, ["4", "4"], ids)


def test_length_penalty_is_kimis_within_each_prompt() -> None:
    prompts = ["p"] * 3 + ["q"] * 3
    ids = [[1] * length for length in (10, 20, 30, 100, 150, 200)]
    right, wrong = r"\boxed{4}", r"\boxed{5}"
    texts = [right, right, wrong, wrong, right, right]
    # lambda is 0.5, 0, -0.5 in either group; a wrong answer keeps only what is below zero
    expected = [0.5, 0.0, -0.5, 0.0, 0.0, -0.5]
    assert length_penalty(texts, ["4"] * 6, ids, prompts) == pytest.approx(expected)
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    assert length_penalty(texts, ["4"] * 6, ids, chats) == pytest.approx(expected)


def test_length_penalty_is_nothing_where_all_are_equally_long() -> None:
    texts = [r"\boxed{4}", r"\boxed{5}"]
    assert length_penalty(texts, ["4"] * 2, [[1], [2]], ["p"] * 2) == [0.0, 0.0]
    assert length_penalty(texts, ["none", "4"], [[1], [2]], ["p"] * 2) == [None, 0.0]
