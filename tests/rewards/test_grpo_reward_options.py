"""The reward options on the command line and in YAML."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from trl_deepseek.cli.main import main
from trl_deepseek.rollouts.history import read

Run = Callable[..., tuple[int, str]]

REWARDS = """
def short(completion: str) -> float:
    return 1.0

def fails(completion: str) -> float:
    raise ValueError("boom")
"""
RUN = """
model_name_or_path: tiny-deepseek-llm
dataset_name: prompts.jsonl
max_steps: 1
per_device_train_batch_size: 4
num_generations: 4
max_completion_length: 4
save_strategy: "no"
report_to: none
logging_steps: 1
chat_template: role-tokens
output_dir: out
"""


@pytest.fixture
def grpo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run the command with more YAML; the exit code and the last thing said."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(REWARDS)
    row = json.dumps({"prompt": [{"role": "user", "content": "1+1"}], "solution": "2"})
    (tmp_path / "prompts.jsonl").write_text(f"{row}\n" * 4)

    def run(more: str, *flags: str) -> tuple[int, str]:
        (tmp_path / "run.yaml").write_text(RUN + more)
        code = main(["grpo", "--config", "run.yaml", *flags])
        return code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            "reward_funcs: [exact_match]\nreward_weights: {exact_macht: 1.0}",
            "reward_weights: 'exact_macht' is not one of the rewards\n  did you mean 'exact_match'",
        ),
        (
            "reward_funcs: [exact_match]\nreward_weights: [1.0, 2.0]",
            "reward_weights has 2 numbers for 1 rewards (exact_match)",
        ),
        (
            "reward_funcs: [exact_match]\nreward_on_error: ignore",
            "reward_on_error: 'ignore' is not a number\n  allowed: raise, abstain or a number",
        ),
        ("reward_funcs: [exact_match, exact_match]", "two rewards are named 'exact_match'"),
    ],
)
def test_options_that_cannot_be_are_refused(grpo: Run, more: str, message: str) -> None:
    code, said = grpo(more)
    assert code == 2
    assert message in said


def test_a_failing_reward_ends_the_command_with_code_1_and_one_message(grpo: Run) -> None:
    code, said = grpo("reward_funcs: ['mine.py:fails']")
    assert code == 1
    assert (
        "reward 'fails' (mine.py) failed on 4 of 4 completions at step 0: ValueError: boom" in said
    )
    assert "the batch is kept in out/reward_failures/step-000000-fails.jsonl" in said
    assert 'raise ValueError("boom")' in said
    assert "grpo_trainer.py" not in said


def test_weights_by_name_a_number_for_failures_and_workers_from_yaml(
    grpo: Run, tmp_path: Path
) -> None:
    code, said = grpo(
        "reward_funcs: ['mine.py:short', 'mine.py:fails']\n"
        "reward_weights: {fails: {0: 1.0, 10: 0.0}, short: 0.25}\n"
        "reward_on_error: -2\nreward_workers: 1\n",
        "--reward_max_failures",
        "9",
    )
    assert code == 0, said
    rows = list(read(tmp_path / "out"))
    assert {tuple(row.scores.items()) for row in rows} == {(("short", 1.0), ("fails", -2.0))}
