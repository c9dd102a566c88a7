"""The fixtures come with trl-deepseek, from ``trl_deepseek.testing``."""

from __future__ import annotations

from typing import Any

import acme_rewards

from trl_deepseek.testing import CheckPlugin, CheckReward, MakeCompletion, TrainOneStep


def test_terse_counts_the_words_of_the_answer(
    check_reward: CheckReward, make_completion: MakeCompletion
) -> None:
    reasoned = make_completion("four", reasoning="two and two is " * 20)
    check_reward(
        acme_rewards.terse,
        [
            ("four", {}, 1.0),
            (reasoned, {}, 1.0),
            ("it is four", {}, 1 - 2 / 19),
            ("four " * 50, {}, 0.0),
            ("", {}, None),
        ],
    )


def test_the_plugin_keeps_what_runs_rely_on(check_plugin: CheckPlugin) -> None:
    check_plugin("acme_rewards")


def test_terse_trains(train_one_step: TrainOneStep) -> None:
    log: dict[str, Any] = train_one_step(acme_rewards.terse)
    assert 0.0 <= log["rewards/terse/mean"] <= 1.0
