from __future__ import annotations

import re

import pytest

from trl_deepseek import load_registry
from trl_deepseek.errors import DataError

arithmetic = load_registry().datasets["arithmetic"]


def questions(split: str, size: int, seed: int = 0) -> set[str]:
    return {row["prompt"][0]["content"] for row in arithmetic(split=split, size=size, seed=seed)}


def test_every_solution_is_the_sum() -> None:
    for row in arithmetic(split="train", kind="prompts", size=500, seed=3):
        left, right = row["prompt"][0]["content"].split("+")
        assert int(left) + int(right) == int(row["solution"])


def test_held_out_questions_are_never_trained_on_in_either_order() -> None:
    train = questions("train", 7_000) | questions("train", 7_000, seed=1)
    test = questions("test", 700)
    assert len(test) == 700
    assert not train & test
    assert not train & {"+".join(reversed(question.split("+"))) for question in test}


def test_a_seed_gives_the_same_rows_and_another_seed_others() -> None:
    assert arithmetic(size=50, seed=1).to_list() == arithmetic(size=50, seed=1).to_list()
    assert arithmetic(size=50, seed=1).to_list() != arithmetic(size=50, seed=2).to_list()


def test_less_than_half_of_the_demonstrations_show_true_steps_and_all_give_the_answer() -> None:
    rows = arithmetic(kind="demonstrations", size=2_000).to_list()
    with_steps = 0
    for row in rows:
        left, right = map(int, row["prompt"][0]["content"].split("+"))
        text = row["completion"][0]["content"]
        steps = re.fullmatch(r"<think>(.+)</think>(\d+)", text)
        answer = steps[2] if steps else text
        assert int(answer) == left + right
        if steps:
            with_steps += 1
            digits, carry = "", 0
            for step in steps[1].split(" "):
                parts = re.fullmatch(r"(\d)\+(\d)\+(\d)=(\d+)", step)
                assert parts is not None
                x, y, carried, total = map(int, parts.groups())
                assert (carried, total) == (carry, x + y + carry)
                digits, carry = str(total % 10) + digits, total // 10
            assert int((str(carry) if carry else "") + digits) == left + right
    assert with_steps / len(rows) == pytest.approx(0.45, abs=0.04)


def test_preferences_prefer_the_right_answer_to_a_wrong_one() -> None:
    for row in arithmetic(kind="preferences", size=200):
        left, right = map(int, row["prompt"][0]["content"].split("+"))
        assert row["chosen"][0]["content"].split("</think>")[-1] == str(left + right)
        assert int(row["rejected"][0]["content"].split("</think>")[-1]) != left + right


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, "arithmetic has no split 'dev'; its splits are 'train' and 'test'"),
        (
            {"kind": "pairs"},
            "arithmetic has no kind 'pairs'; its kinds are demonstrations, preferences, prompts",
        ),
        ({"size": 0}, "arithmetic cannot have 0 rows"),
    ],
    ids=["split", "kind", "size"],
)
def test_what_there_is_not_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as caught:
        arithmetic(**arguments)  # type: ignore[arg-type]
    assert str(caught.value) == message
