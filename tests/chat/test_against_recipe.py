"""Prompts of V4 and V4.1 next to those of DeepSeek's own encoder, on random conversations."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import deepseek_recipe as recipe
import pytest

from trl_deepseek import chat, load_registry
from trl_deepseek.types import Messages

TEMPLATES = load_registry().chat_templates
TEXTS = ("a", "b\n", "\n\nc", "x </think> y", '{"k": 1}', "日本", "  s ")
ARGUMENTS = ('{"a":1}', '{"a":"x","b":[1,"é"]}', '{"q":null}')
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "d",
        "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
    },
}
CONVERSATIONS = 400


class Conversations:
    """Conversations that end where an answer is due, the same ones for every family.

    Args:
        empty: Whether texts and arguments may be empty and systems may stand anywhere. There the
            recipe differs from the encoder that came with V4: it leaves empty messages out of a
            turn, moves systems to the front and writes no blank line for no arguments.
    """

    def __init__(self, empty: bool) -> None:
        self.chance = random.Random(0)
        self.empty = empty
        self.texts = (*TEXTS, "") if empty else TEXTS
        self.arguments = (*ARGUMENTS, "{}") if empty else ARGUMENTS

    def __iter__(self) -> Iterator[Messages]:
        for _ in range(CONVERSATIONS):
            yield self.one()

    def one(self) -> Messages:
        messages = [self.says("system")] if self.likely(0.5) else []
        for turn in range(self.chance.randint(1, 3)):
            messages.append(self.says("user"))
            if turn and self.likely(0.1):
                messages.append(self.says("user"))
            if self.empty and self.likely(0.2):
                messages.append(self.says("system"))
            for step in range(self.chance.randint(0, 2)):
                messages += self.calls(f"{turn}{step}")
            messages.append(self.answers())
        return messages[:-1]

    def likely(self, share: float) -> bool:
        return self.chance.random() < share

    def says(self, role: str) -> dict[str, Any]:
        return {"role": role, "content": self.chance.choice(self.texts)}

    def answers(self) -> dict[str, Any]:
        reasoning = {"reasoning_content": self.chance.choice(["r", "why\n"])}
        return {**self.says("assistant"), **(reasoning if self.likely(0.6) else {})}

    def calls(self, step: str) -> Messages:
        """An answer with calls, and their results in any order."""
        calls = [
            {
                "id": f"c{step}{number}",
                "type": "function",
                "function": {
                    "name": self.chance.choice("fg"),
                    "arguments": self.chance.choice(self.arguments),
                },
            }
            for number in range(self.chance.randint(1, 3))
        ]
        ids = self.chance.sample([call["id"] for call in calls], len(calls))
        results = [{**self.says("tool"), "tool_call_id": name} for name in ids]
        return [{**self.answers(), "tool_calls": calls}, *results]


def official(encoding: Any, model: str, messages: Messages, tools: Any, effort: str | None) -> str:
    """What DeepSeek's encoder makes of it; thinking is on where there is an effort."""
    body: dict[str, Any] = {"model": model, "messages": messages}
    body["thinking"] = {"type": "enabled" if effort else "disabled"}
    body |= {"tools": tools} if tools else {}
    body |= {"reasoning_effort": effort} if effort else {}
    request = recipe.ChatCompletionRequest(body).convert(recipe.ConversionOptions())
    return str(encoding.render_conversation(request.conversation).prompt)


@pytest.mark.parametrize("tools", [None, [TOOL]], ids=["no tools", "tools"])
@pytest.mark.parametrize(
    ("family", "effort"),
    [
        *(("deepseek-v4.1", effort) for effort in (None, "low", "high", "xhigh", "max")),
        *(("deepseek-v4-0731", effort) for effort in (None, "low", "high", "max")),
    ],
)
def test_prompts_are_deepseeks(family: str, effort: str | None, tools: Any) -> None:
    is_newest = family == "deepseek-v4.1"
    encoding = recipe.DeepseekV41Encoding() if is_newest else recipe.DeepseekV4Encoding()
    model = "DeepSeek-V4.1-Flash" if is_newest else "DeepSeek-V4-Pro"
    options = {"tools": tools, "thinking": bool(effort), "reasoning_effort": effort}
    for messages in Conversations(empty=is_newest):
        ours = chat.render(TEMPLATES[family], messages, add_generation_prompt=True, **options)
        assert ours == official(encoding, model, messages, tools, effort)


@pytest.mark.parametrize("effort", [None, "high"], ids=["chat", "thinking"])
@pytest.mark.parametrize("family", ["deepseek-v4.1", "deepseek-v4-0731"])
def test_answers_and_thoughts_are_continued_as_by_deepseek(family: str, effort: str | None) -> None:
    is_newest = family == "deepseek-v4.1"
    encoding = recipe.DeepseekV41Encoding() if is_newest else recipe.DeepseekV4Encoding()
    model = "DeepSeek-V4.1-Flash" if is_newest else "DeepSeek-V4-Pro"
    options: dict[str, Any] = {"thinking": bool(effort), "reasoning_effort": effort}
    begun: list[dict[str, Any]] = [
        {"content": "", "reasoning_content": "half a thought"},
        {"content": "", "reasoning_content": "with blanks \n"},
        {"content": ""},
        {"content": "half an answer", "reasoning_content": "a thought"},
        {"content": "half an answer"},
    ]
    for number, conversation in enumerate(Conversations(empty=is_newest)):
        last = {"role": "assistant", "prefix": True, **begun[number % len(begun)]}
        # the recipe continues no conversation with tools
        messages = [
            *(m for m in conversation if "tool_calls" not in m and m["role"] != "tool"),
            last,
        ]
        ours = chat.render(TEMPLATES[family], messages, continue_final_message=True, **options)
        assert ours == official(encoding, model, messages, None, effort)
