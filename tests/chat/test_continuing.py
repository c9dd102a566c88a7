"""A last assistant message that holds nothing but a thought is continued inside that thought."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from trl_deepseek import chat, load_registry

REGISTRY = load_registry()
USER: dict[str, Any] = {"role": "user", "content": "q"}
TOGGLED = ("v3.1", "v3.2-exp", "v3.2", "v4", "v4-0731", "v4.1")
# What each format writes between its header and a thought: facts of its prompts and targets.
OPENINGS = {
    "deepseek-llm": "Assistant: <think>\n",
    "deepseek-coder": "### Response:\n<think>\n",
    "role-tokens": "<|assistant|>\n<think>\n",
    **dict.fromkeys((f"deepseek-{name}" for name in TOGGLED), "<｜Assistant｜><think>"),
}


def thought(content: str | None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "reasoning_content": "half a thou", **more}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("content", [None, ""])
@pytest.mark.parametrize("family", sorted(REGISTRY.chat_templates))
def test_the_text_ends_with_the_thought(family: str, content: str | None, training: bool) -> None:
    template = REGISTRY.chat_templates[family]
    options: dict[str, Any] = {"training": training, "thinking": True}
    text = chat.render(
        template, [USER, thought(content, prefix=True)], continue_final_message=True, **options
    )
    opening = OPENINGS.get(family, "<｜Assistant｜><think>\n")
    prompt = chat.render(template, [USER], add_generation_prompt=True, **options)
    assert text.startswith(prompt)
    assert text.endswith(f"{opening}half a thou")


@pytest.mark.parametrize(
    "family", ["deepseek-v3.2", "deepseek-v4", "deepseek-v4-0731", "deepseek-v4.1"]
)
def test_a_saved_tokenizer_ends_with_the_thought_too(family: str, tmp_path: Path) -> None:
    """transformers marks the end of the content, which is empty, with a text of its own."""
    template, tokenizer = REGISTRY.chat_templates[family], tokenizer_of_ours()
    chat.install(tokenizer, template)
    tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    for thinking in (True, False):
        options: dict[str, Any] = {"continue_final_message": True, "thinking": thinking}
        text = saved.apply_chat_template([USER, thought("")], tokenize=False, **options)
        assert text == chat.render(template, [USER, thought("")], **options)
        assert text.endswith("<think>half a thou" if thinking else "</think>")


def test_a_thought_is_ruled_out_where_the_prompt_rules_out_thinking() -> None:
    template = REGISTRY.chat_templates["deepseek-v4.1"]
    text = chat.render(template, [USER, thought("")], continue_final_message=True, thinking=False)
    assert text.endswith("<｜User｜>q<｜Assistant｜></think>")


def test_a_thought_is_generated_and_the_prompt_that_opens_it_is_not() -> None:
    template, tokenizer = REGISTRY.chat_templates["deepseek-r1"], tokenizer_of_ours()
    encoded = chat.encode(
        template, [USER, thought("")], tokenizer, training=True, continue_final_message=True
    )
    pairs = zip(encoded.input_ids, encoded.assistant_mask, strict=True)
    assert tokenizer.decode([token for token, mask in pairs if mask]) == "half a thou"


def test_an_answer_that_has_begun_closes_its_thought() -> None:
    template = REGISTRY.chat_templates["deepseek-v4.1"]
    text = chat.render(template, [USER, thought("an")], continue_final_message=True, thinking=True)
    assert text.endswith("<think>half a thou</think>an")


def tokenizer_of_ours() -> Any:
    return REGISTRY.models["tiny-deepseek-llm"]()[1]
