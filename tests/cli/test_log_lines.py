"""What a training command prints while it trains."""

import math

import pytest
from transformers import DefaultFlowCallback, TrainerControl, TrainerState, TrainingArguments

from trl_deepseek.cli.log_lines import LogLines, line

GRPO = {  # a log as TRL makes it
    "loss": 0.0213,
    "grad_norm": 0.41,
    "learning_rate": 1e-06,
    "num_tokens": 320.0,
    "completions/mean_length": 16.0,
    "completions/min_length": 16.0,
    "completions/clipped_ratio": 0.875,
    "rewards/exact_match/mean": 0.25,
    "rewards/exact_match/std": 0.43,
    "reward": 0.25,
    "reward_std": 0.43,
    "frac_reward_zero_std": 0.5,
    "rewards/exact_match/abstained": 0.0,
    "rewards/exact_match/errors": 2.0,
    "rewards/exact_match/timeouts": 0.0,
    "entropy": 5.609,
    "clip_ratio/low_mean": 0.0,
    "step_time": 4.497,
    "epoch": 0.5,
}


def test_a_line_holds_what_people_follow_and_what_failed() -> None:
    assert line(GRPO, 5, 120) == (
        "step   5/120  loss 0.0213  reward 0.25  exact_match 0.25  entropy 5.61  length 16  "
        "clipped 0.875  groups alike 0.5  grad_norm 0.41  lr 1e-06  epoch 0.5  exact_match errors 2"
    )


def test_held_out_figures_say_so() -> None:
    logs = {"eval_loss": 0.7, "eval_rewards/accuracies": 0.5, "eval_runtime": 3.0, "epoch": 1.0}
    assert line(logs, 10, 10) == ("step 10/10  held-out loss 0.7  held-out accuracies 0.5  epoch 1")


def test_what_is_not_finite_is_shown_as_it_is() -> None:
    assert line({"loss": math.nan, "grad_norm": math.inf}, 1, 2) == (
        "step 1/2  loss nan  grad_norm inf"
    )


@pytest.mark.parametrize(
    ("steps", "chosen", "expected"),
    [(5, False, 1), (5, True, 10), (40, False, 4), (500, False, 10)],
)
def test_a_short_run_logs_ten_times_unless_the_user_chose(
    steps: int, chosen: bool, expected: int
) -> None:
    state, lines = TrainerState(max_steps=steps, logging_steps=10), LogLines(chosen)
    transformers, logged = DefaultFlowCallback(), list[int]()
    for state.global_step in range(1, steps + 1):
        control = transformers.on_step_end(TrainingArguments(), state, TrainerControl())
        lines.on_step_end(TrainingArguments(), state, control)
        logged += [state.global_step] * control.should_log
    assert logged == [step for step in range(1, steps + 1) if step % expected == 0]
    assert state.logging_steps == 10  # it is saved, and compared with the config on resume
