"""R1-Zero's pair of rewards, the form and the right answer, in a GRPO run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset

from trl_deepseek import GRPOConfig, GRPOTrainer, chat, load_registry, testing


@pytest.mark.matrix
def test_the_pair_pays_a_model_that_samples_its_answers(tmp_path: Path) -> None:
    """Two demonstrations, one of them right, teach it the form; what it samples is then paid."""
    registry = load_registry()
    template = registry.chat_templates["deepseek-r1"]
    model, tokenizer = registry.models["tiny-deepseek-llm"]()
    question = {"role": "user", "content": "2+2="}
    rows = []
    for digit in "45":
        said = {"content": f"<answer>{digit}</answer>", "reasoning_content": "2 and 2"}
        messages = [question, {"role": "assistant", **said}]
        encoded = chat.encode(template, messages, tokenizer, training=True)
        rows.append((encoded.input_ids, encoded.assistant_mask))
    ids = torch.tensor([row for row, _ in rows])
    labels = ids.masked_fill(~torch.tensor([mask for _, mask in rows]).bool(), -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 60)
        optimizer.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    grpo = GRPOTrainer(
        model,
        ["answer_format", "math_accuracy"],
        GRPOConfig(
            str(tmp_path / "grpo"),
            chat_template="deepseek-r1",
            per_device_train_batch_size=8,
            num_generations=8,
            temperature=0.7,
            max_completion_length=32,
            max_steps=1,
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            bf16=False,
            save_strategy="no",
        ),
        train_dataset=Dataset.from_list([{"prompt": [question], "solution": "4"}]),
        processing_class=tokenizer,
    )
    grpo.train()
    log = grpo.state.log_history[0]
    assert log["rewards/answer_format/mean"] > 0
    assert log["rewards/math_accuracy/mean"] > 0
    assert log["grad_norm"] > 0


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

    monkeypatch.setattr(trl.GRPOTrainer, "_generate_single_turn", generate)
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
