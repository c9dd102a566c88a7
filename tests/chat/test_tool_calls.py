"""Tool calls that a family writes are read back, and GRPO takes tools with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl.chat_template_utils import parse_response

from trl_deepseek import GRPOConfig, GRPOTrainer, chat, load_registry
from trl_deepseek.errors import TemplateError

REGISTRY = load_registry()
READING = sorted(n for n, t in REGISTRY.chat_templates.items() if t.response is not None)
USER: dict[str, Any] = {"role": "user", "content": "q"}
ARGUMENTS = {"count": 1, "name": " x 1 ", "digits": "12", "rest": ["é", {"k": None}], "on": True}
TYPES = {"count": "integer", "name": "string", "digits": "string", "rest": "array", "on": "boolean"}
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "d",
        "parameters": {
            "type": "object",
            "properties": {name: {"type": kind} for name, kind in TYPES.items()},
        },
    },
}


def call(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "arguments": arguments}}


ANSWERS: dict[str, dict[str, Any]] = {
    "plain": {"content": "a"},
    "reasoned": {"content": "a", "reasoning_content": "why"},
    "call": {"content": "", "tool_calls": [call(ARGUMENTS)]},
    "calls": {"content": "see", "tool_calls": [call(ARGUMENTS), call({})]},
    "reasoned calls": {"content": "", "reasoning_content": "why", "tool_calls": [call({})] * 2},
}


def test_every_family_that_writes_calls_reads_them() -> None:
    families = ("r1", "r1-0528", "r1-distill", "v2.5", "v3", "v3-0324", "v3.1", "v3.2", "v3.2-exp")
    newer = ("v4", "v4-0731", "v4.1")
    assert [f"deepseek-{family}" for family in (*families, *newer)] == READING


@pytest.mark.transformers("5.15")
@pytest.mark.parametrize("answer", sorted(ANSWERS))
@pytest.mark.parametrize("family", READING)
def test_what_was_written_is_read(family: str, answer: str) -> None:
    tokenizer: Any = REGISTRY.models["tiny-deepseek-llm"]()[1]
    template = chat.install(tokenizer, family)
    chat.parse_tool_calls(tokenizer)
    message = {"role": "assistant", **ANSWERS[answer]}
    options: dict[str, Any] = {
        "tools": [TOOL],
        "training": True,
        "thinking": "reasoning_content" in message,
    }
    prompt = chat.render(template, [USER], add_generation_prompt=True, **options)
    text = chat.render(template, [USER, message], **options)
    assert text.startswith(prompt)
    ids = [tokenizer.encode(part) for part in (prompt, text[len(prompt) :])]
    assert parse_response(tokenizer, ids[1], prefix=ids[0], tools=[TOOL]) == message


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


def grpo(family: str, tmp_path: Path, *messages: dict[str, Any]) -> GRPOTrainer:
    args = GRPOConfig(
        str(tmp_path),
        chat_template=family,
        report_to="none",
        use_cpu=True,
        max_steps=1,
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=4,
        save_strategy="no",
    )
    return GRPOTrainer(
        "tiny-deepseek-llm",
        reward_funcs=[lambda completions, **_: [0.0, 1.0]],
        args=args,
        train_dataset=Dataset.from_list([{"prompt": [*messages, USER]}] * 2),
        tools=[add],
    )


@pytest.mark.transformers("5.15")
def test_grpo_trains_with_tools(tmp_path: Path) -> None:
    trainer = grpo("deepseek-v4", tmp_path)
    trainer.train()
    assert trainer.state.global_step == 1


def test_grpo_refuses_a_family_that_reads_no_calls(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="this chat template does not say how to read calls"):
        grpo("deepseek-v2-0628", tmp_path, {"role": "system", "content": "You may call add."})
