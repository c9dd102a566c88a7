"""A rendered conversation begins with what was rendered before its last turn.

GRPO and multi-turn tools rely on it: what the model has read must not be rewritten afterwards. The
table of official templates that break it is section 6 of the facts about the formats.
"""

from __future__ import annotations

from typing import Any

import pytest
from trl.chat_template_utils import (
    is_chat_template_prefix_preserving,
    is_chat_template_stop_token_trained,
)

from trl_deepseek import chat, load_registry
from trl_deepseek.types import Messages

REGISTRY = load_registry()
FAMILIES = sorted(REGISTRY.chat_templates)
WITHOUT_TOOLS = ("deepseek-coder", "deepseek-llm", "deepseek-v2-0628", "role-tokens")
CALL = {"id": "c0", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def said(reasoning: str | None = None, **more: Any) -> dict[str, Any]:
    about = {} if reasoning is None else {"reasoning_content": reasoning}
    return {"role": "assistant", "content": "a", **about, **more}


USER: dict[str, Any] = {"role": "user", "content": "q"}
RESULT: dict[str, Any] = {"role": "tool", "content": "o", "tool_call_id": "c0"}
CONVERSATIONS: dict[str, Messages] = {
    "plain": [USER, said()],
    "reasoned": [USER, said("r")],
    "next": [USER, said(), USER, said()],
    "next, reasoned": [USER, said("r"), USER, said("r")],
    "tool": [USER, said(tool_calls=[CALL]), RESULT, said()],
    "tool, reasoned": [USER, said("r", tool_calls=[CALL]), RESULT, said("r")],
}
# family, conversation, thinking: where the official rendering rewrites what the model has read
REWRITTEN = [
    *(
        (family, conversation, None)
        for family in ("deepseek-r1", "deepseek-r1-distill")
        for conversation in ("plain", "reasoned")
    ),
    *(
        (family, conversation, True)
        for family in ("deepseek-v3.1", "deepseek-v3.2-exp")
        for conversation in ("plain", "reasoned")
    ),
    ("deepseek-v3.2", "next, reasoned", True),
    *(
        (family, conversation, True)
        for family in ("deepseek-v4", "deepseek-v4-0731", "deepseek-v4.1")
        for conversation in ("next, reasoned", "tool, reasoned")
    ),
]


def preserves(family: str, messages: Messages, thinking: bool | None, **options: Any) -> bool:
    """Whether every shorter rendering begins the whole one."""
    template = REGISTRY.chat_templates[family]
    if thinking is not None:
        options["thinking"] = thinking
    whole = chat.render(template, messages, **options)
    shorter = []
    for length in range(1, len(messages)):
        due = messages[length]["role"] == "assistant"
        if due and options.get("training") and thinking is None:
            options["thinking"] = "reasoning_content" in messages[length]
        shorter.append(
            chat.render(template, messages[:length], add_generation_prompt=due, **options)
        )
    return all(map(whole.startswith, shorter))


@pytest.mark.parametrize("thinking", [None, True])
@pytest.mark.parametrize(
    ("family", "conversation"),
    [
        (family, conversation)
        for family in FAMILIES
        for conversation in CONVERSATIONS
        if not (family in WITHOUT_TOOLS and conversation.startswith("tool"))
    ],
)
def test_training_with_all_reasoning_kept_rewrites_nothing(
    family: str, conversation: str, thinking: bool | None
) -> None:
    options = {"training": True, "drop_thinking": False}
    assert preserves(family, CONVERSATIONS[conversation], thinking, **options)


@pytest.mark.parametrize("conversation", ["plain", "reasoned"])
@pytest.mark.parametrize("family", FAMILIES)
def test_training_as_it_comes_does_not_rewrite_the_last_prompt(
    family: str, conversation: str
) -> None:
    assert preserves(family, CONVERSATIONS[conversation], None, training=True)


@pytest.mark.parametrize(("family", "conversation", "thinking"), REWRITTEN)
def test_official_renderings_rewrite_what_was_read(
    family: str, conversation: str, thinking: bool | None
) -> None:
    official = {"official_quirks": True}
    assert not preserves(family, CONVERSATIONS[conversation], thinking, **official)


@pytest.mark.parametrize("family", FAMILIES)
def test_trl_finds_that_the_end_of_a_turn_is_trained(family: str) -> None:
    tokenizer: Any = REGISTRY.models["tiny-deepseek-llm"]()[1]
    chat.install(tokenizer, family)
    assert is_chat_template_stop_token_trained(tokenizer)


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {*WITHOUT_TOOLS}))
def test_trl_finds_that_tool_results_rewrite_nothing(family: str) -> None:
    tokenizer: Any = REGISTRY.models["tiny-deepseek-llm"]()[1]
    chat.install(tokenizer, family)
    assert is_chat_template_prefix_preserving(tokenizer)
