from __future__ import annotations

from typing import Any

import pytest

from trl_deepseek.errors import ConfigError
from trl_deepseek.rewards.weights import weigh

NAMES = ("math", "format")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([1.0, 0.2], [1.0, 0.2]),
        (["1.0", "0.2"], [1.0, 0.2]),
        ({"format": 0.2, "math": 1}, [1.0, 0.2]),
        (["math=1", "format=0.2"], [1.0, 0.2]),
        ('{"format": 0.2, "math": 1}', [1.0, 0.2]),
        (['{"format": {"0": 0.2}, "math": 1}'], [1.0, 0.2]),
    ],
)
def test_every_way_to_write_weights_gives_them_in_the_order_of_the_rewards(
    given: Any, expected: list[float]
) -> None:
    weights = weigh(given, NAMES)
    assert weights is not None
    assert weights.constant
    assert weights.at(0) == weights.at(1000) == expected


def test_a_schedule_moves_in_straight_lines_and_stays_at_its_ends() -> None:
    weights = weigh({"math": 1.0, "format": {10: 0.5, 20: 0.5, 40: 0.0}}, NAMES)
    assert weights is not None
    assert not weights.constant
    at = {0: 0.5, 10: 0.5, 15: 0.5, 20: 0.5, 30: 0.25, 40: 0.0, 99: 0.0}
    assert {step: weights.at(step)[1] for step in at} == pytest.approx(at)
    assert weights.at(30)[0] == 1.0


def test_no_weights_are_left_to_trl() -> None:
    assert weigh(None, NAMES) is None


def test_a_reward_that_is_not_named_keeps_the_weight_one() -> None:
    for given in ({"format": 0.5}, ["format=0.5"], '{"format": 0.5}'):
        found = weigh(given, NAMES)
        assert found is not None
        assert found.at(0) == [1.0, 0.5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0], "reward_weights has 1 numbers for 2 rewards (math, format)"),
        (
            {"math": 1.0, "fromat": 1.0},
            "reward_weights: 'fromat' is not one of the rewards\n  did you mean 'format'?\n"
            "  rewards: math, format",
        ),
        ({"math": 1.0, "format": {-1: 1.0}}, "reward_weights: format: -1 is not a step"),
        ({"math": 1.0, "format": {}}, "reward_weights: format: the schedule is empty"),
        ({"math": 1.0, "format": "much"}, "reward_weights: format: 'much' is not a number"),
        ({"math": 1.0, "format": float("nan")}, "reward_weights: format: nan is not a number"),
        (["1", "much"], "reward_weights: 'much' is not a number"),
        ("{math: 1}", "reward_weights '{math: 1}' is not JSON"),
    ],
)
def test_bad_weights_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        weigh(given, NAMES)
    assert str(caught.value).startswith(message)
