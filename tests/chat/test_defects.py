"""Defects of official and stock templates, each next to what ours does instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trl
from trl.chat_template_utils import supports_tool_calling

from trl_deepseek import chat, load_registry
from trl_deepseek.errors import TemplateError
from trl_deepseek.types import ChatTemplate, Messages

REGISTRY = load_registry()
END = "<｜end▁of▁sentence｜>"
FUNCTION = ("deepseek-v2.5", "deepseek-v3", "deepseek-r1-distill")  # calls lost officially
WITH_TOOLS = sorted(
    set(REGISTRY.chat_templates)
    - {"deepseek-llm", "deepseek-coder", "deepseek-v2-0628", "role-tokens"}
)
CALL: dict[str, Any] = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
USER: dict[str, Any] = {"role": "user", "content": "q"}
CALLING: dict[str, Any] = {"role": "assistant", "content": "see", "tool_calls": [CALL]}
RESULT: dict[str, Any] = {"role": "tool", "content": "o"}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "a"}
WRITTEN_CALL = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```"
    "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
)
WRITTEN_RESULT = (
    "<｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>o<｜tool▁output▁end｜><｜tool▁outputs▁end｜>"
)


def render(family: str, messages: Messages, **options: Any) -> str:
    return chat.render(REGISTRY.chat_templates[family], messages, **options)


@pytest.mark.parametrize("family", FUNCTION)
def test_calls_beside_a_content_are_written_and_closed(family: str) -> None:
    assert "f\n```json" not in render(family, [USER, CALLING], official_quirks=True)
    assert render(family, [USER, CALLING]).endswith(f"<｜Assistant｜>see{WRITTEN_CALL}{END}")


@pytest.mark.parametrize("family", [*FUNCTION, "deepseek-r1"])
def test_second_calls_and_results_are_opened_like_the_first(family: str) -> None:
    twice = [USER, CALLING, RESULT, ANSWER, USER, CALLING, RESULT, ANSWER]
    ours = render(family, twice)
    assert (ours.count(WRITTEN_CALL), ours.count(WRITTEN_RESULT)) == (2, 2)
    official = render(family, twice, official_quirks=True)
    assert official.count("<｜tool▁outputs▁begin｜>") == 1


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("calls", [None, []])
@pytest.mark.parametrize("family", sorted(REGISTRY.chat_templates))
def test_empty_calls_lose_no_content(family: str, calls: Any, training: bool) -> None:
    empty = {**ANSWER, "tool_calls": calls}
    assert render(family, [USER, empty], training=training) == render(
        family, [USER, ANSWER], training=training
    )


@pytest.mark.parametrize("family", FUNCTION)
def test_many_calls_are_closed_once(family: str) -> None:
    many = [USER, {**CALLING, "content": None, "tool_calls": [CALL] * 3}]
    closing = f"<｜tool▁calls▁end｜>{END}"
    assert render(family, many, official_quirks=True).count(closing) == 2
    assert render(family, many).count(closing) == 1


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("family", sorted(REGISTRY.chat_templates))
def test_content_as_text_parts_is_their_text(family: str, training: bool) -> None:
    def parts(*texts: str) -> list[dict[str, str]]:
        return [{"type": "text", "text": text} for text in texts]

    whole: Messages = [
        {"role": "system", "content": "s"},
        USER,
        {"role": "assistant", "content": "<think>why</think>ab"},
    ]
    apart: Messages = [
        {"role": "system", "content": parts("s")},
        {"role": "user", "content": parts("q")},
        {"role": "assistant", "content": parts("<think>why</think>a", "b")},
    ]
    assert render(family, apart, training=training) == render(family, whole, training=training)


@pytest.mark.parametrize("family", sorted(REGISTRY.chat_templates))
def test_a_part_that_is_no_text_is_refused(family: str) -> None:
    picture = {"role": "user", "content": [{"type": "image", "image": "cat.png"}]}
    with pytest.raises(TemplateError, match='a part of type "image"'):
        render(family, [picture])


@pytest.mark.parametrize("family", sorted(REGISTRY.chat_templates))
def test_text_that_closes_no_reasoning_is_all_kept_beside_reasoning_content(family: str) -> None:
    message = {"role": "assistant", "content": "use </think> here", "reasoning_content": "why"}
    assert "use </think> here" in render(family, [USER, message], training=True)
    if family in ("deepseek-r1", "deepseek-r1-0528", "deepseek-v3.1"):
        assert "use </think>" not in render(family, [USER, message], official_quirks=True)


@pytest.mark.parametrize("key", ["reasoning", "thinking"])
@pytest.mark.parametrize("family", sorted(REGISTRY.chat_templates))
def test_reasoning_under_other_names_is_reasoning(family: str, key: str) -> None:
    def text(key: str) -> str:
        tokenizer: Any = REGISTRY.models["tiny-deepseek-llm"]()[1]
        chat.install(tokenizer, family)
        messages = [USER, {"role": "assistant", "content": "a", key: "why"}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False))

    assert "why" in text(key)
    assert text(key) == text("reasoning_content")


@pytest.mark.parametrize("family", sorted({*REGISTRY.chat_templates} - {"role-tokens"}))
def test_a_text_begins_once(family: str) -> None:
    tokenizer: Any = REGISTRY.models["tiny-deepseek-llm"]()[1]
    template = chat.install(tokenizer, family)
    ids = chat.encode(template, [USER, ANSWER], tokenizer, training=True).input_ids
    assert [ids.count(tokenizer.bos_token_id), ids[0]] == [1, tokenizer.bos_token_id]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("family", sorted(REGISTRY.chat_templates))
def test_no_content_is_an_empty_one(family: str, training: bool) -> None:
    texts = [
        render(family, [USER, {"role": "assistant", "content": content}], training=training)
        for content in (None, "")
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("which", ["inference", "training"])
@pytest.mark.parametrize("family", WITH_TOOLS)
def test_trl_finds_that_tools_are_supported(family: str, which: str) -> None:
    tokenizer: Any = REGISTRY.models["tiny-deepseek-llm"]()[1]
    tokenizer.chat_template = getattr(REGISTRY.chat_templates[family], which)
    assert supports_tool_calling(tokenizer)


def test_stock_training_drops_the_reasoning_and_trains_on_the_header() -> None:
    folder = Path(trl.__file__).parent / "chat_templates"
    stock = (folder / "deepseekv3_training.jinja").read_text(encoding="utf-8")
    tokenizer: Any = REGISTRY.models["tiny-deepseek-llm"]()[1]
    header = tokenizer.convert_tokens_to_ids("<｜Assistant｜>")
    messages = [USER, {"role": "assistant", "content": "<think>\nwhy\n</think>\n\na"}]

    def target(template: ChatTemplate) -> list[int]:
        encoded = chat.encode(template, messages, tokenizer, training=True)
        pairs = zip(encoded.input_ids, encoded.assistant_mask, strict=True)
        return [token for token, mask in pairs if mask]

    theirs = target(ChatTemplate(inference=stock, training=stock))
    ours = target(REGISTRY.chat_templates["deepseek-r1"])
    assert (header in theirs, "why" in tokenizer.decode(theirs)) == (True, False)
    assert (header in ours, "why" in tokenizer.decode(ours)) == (False, True)


def test_arguments_as_a_mapping_are_items_and_no_argument_named_arguments() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": {"city": "Paris"}}}
    text = render("deepseek-v4", [USER, {"role": "assistant", "content": "", "tool_calls": [call]}])
    assert 'parameter name="city" string="true">Paris<' in text
    assert 'name="arguments"' not in text
