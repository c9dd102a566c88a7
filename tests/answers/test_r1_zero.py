"""R1-Zero's pair of rewards, the form and the right answer, in a GRPO run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trl import GRPOTrainer

from trl_deepseek import testing


@pytest.mark.parametrize("inside", ["4", r"\boxed{4}", "The answer is 4."])
def test_the_pair_pays_on_the_first_right_answer(
    inside: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four completions that the policy is made to write, one is right and in form."""
    told = [
        f"two and two\n</think>\n<answer>{inside}</answer>",  # deepseek-r1's prompt opens <think>
        "two and two\n</think>\n<answer>5</answer>",
        "<answer>4",
        "4",
    ]

    def generate(trainer: Any, prompt_ids: Any, *_: Any, **__: Any) -> tuple[Any, None]:
        tokenizer = trainer.processing_class
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in told]
        return [[*completion, tokenizer.eos_token_id] for completion in ids], None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", generate)
    row = {"prompt": [{"role": "user", "content": "2+2="}], "solution": "4"}
    log = testing.one_step(
        ["answer_format", "math_accuracy"],
        tmp_path,
        [row] * 4,
        chat_template="deepseek-r1",
        num_generations=4,
        max_completion_length=64,
    )
    assert log["rewards/answer_format/mean"] == 0.5
    assert log["rewards/math_accuracy/mean"] == 0.25
    assert log["reward"] == 0.75
    assert log["grad_norm"] > 0
