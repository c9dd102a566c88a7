from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest

from trl_deepseek import load_registry
from trl_deepseek.errors import DataError
from trl_deepseek.types import DatasetKind

REGISTRY = load_registry()
cups = REGISTRY.datasets["cups"]


def followed(question: str) -> list[int]:
    """The cup that holds the ball before and after each swap, by swapping what five cups hold."""
    start, *swaps = question.split(", ")
    holds = [cup == int(start) for cup in range(1, 6)]
    seen = [int(start)]
    for swap in swaps:
        x, y = int(swap[1]) - 1, int(swap[2]) - 1
        holds[x], holds[y] = holds[y], holds[x]
        seen.append(holds.index(True) + 1)
    return seen


def test_every_solution_is_where_the_ball_ends_after_five_lettered_swaps() -> None:
    for row in cups(split="train", kind="prompts", size=500, seed=3):
        question = row["prompt"][0]["content"]
        assert re.fullmatch(r"[1-5](, [a-e][1-5]{2}){5}", question)
        assert [swap[0] for swap in question.split(", ")[1:]] == list("abcde")
        assert all(swap[1] != swap[2] for swap in question.split(", ")[1:])
        assert str(followed(question)[-1]) == row["solution"]


def test_a_guess_is_right_in_a_fifth_of_the_questions() -> None:
    for split in ("train", "test"):
        solutions = Counter(cups(split=split, size=2_000)["solution"])
        assert sorted(solutions) == list("12345")
        assert all(count / 2_000 == pytest.approx(0.2, abs=0.03) for count in solutions.values())


def test_held_out_questions_are_never_trained_on() -> None:
    def questions(split: str, kind: DatasetKind, size: int, seed: int = 0) -> list[str]:
        rows = cups(split=split, kind=kind, size=size, seed=seed)
        return [row["prompt"][0]["content"] for row in rows]

    train = {*questions("train", "demonstrations", 4_000), *questions("train", "prompts", 3_000, 1)}
    train |= {*questions("train", "preferences", 1_000)}
    test = questions("test", "prompts", 3_000)
    assert len(set(test)) == 3_000, "none is drawn twice while others are left"
    assert not train & {*test, *questions("test", "preferences", 500)}


def test_a_seed_gives_the_same_rows_and_another_seed_others() -> None:
    assert cups(size=50, seed=1).to_list() == cups(size=50, seed=1).to_list()
    assert cups(size=50, seed=1).to_list() != cups(size=50, seed=2).to_list()
    assert cups(size=50, seed=1).to_list() == cups(size=80, seed=1).to_list()[:50]


def test_four_in_ten_demonstrations_show_every_place_and_all_end_with_the_answer() -> None:
    rows = cups(kind="demonstrations", size=2_000).to_list()
    with_steps = 0
    for row in rows:
        question = row["prompt"][0]["content"]
        seen = followed(question)
        text = row["completion"][0]["content"]
        thought = re.fullmatch(r"<think>(.+)</think>#### ([1-5])", text)
        if thought is None:
            assert text == f"#### {seen[-1]}"
            continue
        with_steps += 1
        assert int(thought[2]) == seen[-1]
        swaps = question.split(", ")[1:]
        steps = [f"{swap}>{after}" for swap, after in zip(swaps, seen[1:], strict=True)]
        assert thought[1] == "".join([str(seen[0]), *steps])
    assert with_steps / len(rows) == pytest.approx(0.4, abs=0.04)


def test_preferences_prefer_the_right_answer_to_a_wrong_one() -> None:
    for row in cups(kind="preferences", size=200):
        right = str(followed(row["prompt"][0]["content"])[-1])
        assert row["chosen"][0]["content"].startswith("<think>")
        assert row["chosen"][0]["content"].endswith(f"</think>#### {right}")
        wrong = re.fullmatch(r"#### ([1-5])", row["rejected"][0]["content"])
        assert wrong is not None
        assert wrong[1] != right


@pytest.mark.parametrize("name", ["exact_match", "numeric_match", "math_accuracy"])
def test_every_first_party_reward_of_answers_tells_right_from_wrong(name: str) -> None:
    pairs = cups(kind="preferences", size=100)
    golds = [str(followed(row["prompt"][0]["content"])[-1]) for row in pairs]
    reward = REGISTRY.rewards[name]
    score = {
        column: reward(completions=pairs[column], solution=golds)
        for column in ("chosen", "rejected")
    }
    assert set(score["chosen"]) == {1.0}
    assert set(score["rejected"]) == {0.0}


def test_the_tiny_tokenizer_writes_a_step_one_token_per_sign() -> None:
    tokenizer = REGISTRY.models["tiny-deepseek-llm"]()[1]
    tokens = tokenizer.tokenize("<think>3a12>3b45>3</think>#### 3")
    assert tokens == ["<think>", *"3a12>3b45>3", "</think>", *"####", "Ġ", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "cups has no split 'dev'; its splits are 'train' and 'test'"),
        (
            {"kind": "pairs"},
            "cups has no kind 'pairs'; its kinds are demonstrations, preferences, prompts",
        ),
        ({"size": 0}, "cups cannot have 0 rows"),
    ],
    ids=["split", "kind", "size"],
)
def test_what_there_is_not_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as caught:
        cups(**arguments)
    assert str(caught.value) == message
