"""Rows that would not be trained on as they read are refused, or it is said, in every family."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

import trl_deepseek
from trl_deepseek import chat, load_registry
from trl_deepseek.errors import DataError, TemplateError

REGISTRY = load_registry()
FAMILIES = sorted(REGISTRY.chat_templates)
WITH_DEVELOPER = {"deepseek-v3.2", "deepseek-v4", "deepseek-v4-0731", "deepseek-v4.1"}
WRITES_TOOLS = WITH_DEVELOPER
USER: dict[str, Any] = {"role": "user", "content": "q"}
ANSWER: dict[str, Any] = {"role": "assistant", "content": "a"}
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "d",
        "parameters": {"type": "object", "properties": {}},
    },
}
# Writes every role but the first two as the assistant, as deepseek-coder's official template does.
ELSE_ASSISTANT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "U{{ m.content }}{% else %}A{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
# Drops every role that it does not know, as most official templates do.
DROPPING = (
    "{% for m in messages %}{% if m.role == 'user' %}U{{ m.content }}"
    "{% elif m.role == 'assistant' %}A{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


def with_family(family: str) -> Any:
    tokenizer = REGISTRY.models["tiny-deepseek-llm"]()[1]
    chat.install(tokenizer, family, REGISTRY)
    return tokenizer


def with_source(source: str) -> Any:
    tokenizer: Any = REGISTRY.models["tiny-deepseek-llm"]()[1]
    tokenizer.chat_template = source
    return tokenizer


def check(tokenizer: Any, *messages: dict[str, Any], column: str = "messages", **row: Any) -> None:
    plain = {column: [USER, ANSWER], **dict.fromkeys(row)}
    data = Dataset.from_list([plain, {column: list(messages), **row}])
    chat.check_conversations(data, tokenizer, "chats.jsonl", masks=column == "messages")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("role", ["System", "function", "critic", "human"])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_renders_a_role_that_it_does_not_have(
    family: str, role: str, training: bool
) -> None:
    with pytest.raises(TemplateError, match=f'no role "{role}"; its roles are system, user,'):
        chat.render(
            REGISTRY.chat_templates[family],
            [{"role": role, "content": "x"}, USER, ANSWER],
            training=training,
        )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - WITH_DEVELOPER))
def test_a_developer_is_a_system_where_the_format_has_none(family: str, training: bool) -> None:
    texts = [
        chat.render(
            REGISTRY.chat_templates[family],
            [{"role": role, "content": "rules"}, USER, ANSWER],
            training=training,
        )
        for role in ("developer", "system")
    ]
    assert texts[0] == texts[1]
    assert "rules" in texts[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_developer_that_becomes_a_system_is_said_once(
    family: str, caplog: pytest.LogCaptureFixture
) -> None:
    row = {"messages": [{"role": "developer", "content": "rules"}, USER, ANSWER]}
    with caplog.at_level(logging.WARNING):
        chat.check_conversations(Dataset.from_list([row] * 7), with_family(family), "chats.jsonl")
    expected = (
        "chats.jsonl, rows 0, 1, 2, 3, 4 and 2 more: the chat template has no role developer and "
        "writes the message as a system's"
    )
    said = [record.getMessage() for record in caplog.records]
    assert said == ([] if family in WITH_DEVELOPER else [expected])


def test_an_unknown_role_is_refused_with_its_row() -> None:
    with pytest.raises(TemplateError) as caught:
        check(with_family("deepseek-v3"), {"role": "critic", "content": "x"}, USER, ANSWER)
    assert str(caught.value) == (
        "chats.jsonl, row 1: the chat template cannot render this conversation: this chat format "
        'has no role "critic"; its roles are system, user, assistant, tool'
    )


def test_a_foreign_template_may_not_write_a_role_as_the_assistant() -> None:
    message = {"role": "developer", "content": "rules"}
    with pytest.raises(DataError, match="row 1: the chat template writes the developer message as"):
        check(with_source(ELSE_ASSISTANT), message, USER, ANSWER)


@pytest.mark.parametrize("role", ["developer", "critic", "tool"])
def test_a_foreign_template_may_not_drop_a_role(role: str) -> None:
    with pytest.raises(DataError, match=f"row 1: the chat template does not write the {role} mess"):
        check(with_source(DROPPING), USER, {"role": role, "content": "rules"}, ANSWER)


def test_a_foreign_template_may_not_drop_a_tool_call() -> None:
    call = {"type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    with pytest.raises(DataError, match="row 1: the chat template does not write a tool call"):
        check(with_source(DROPPING), USER, {**ANSWER, "tool_calls": [call]})


@pytest.mark.parametrize("column", ["messages", "prompt", "completion", "chosen"])
@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "user", "content": None}, "the user message 0 has no content (null)"),
        ({"role": "assistant", "content": None}, "the assistant message 0 has no content (null)"),
        ({"role": None, "content": "x"}, "message 0 has no role"),
        (None, "has a message that is none (null)"),
    ],
)
def test_a_message_that_says_nothing_at_all_is_refused(
    message: Any, said: str, column: str
) -> None:
    messages = [message, ANSWER] if message else [ANSWER, message]
    with pytest.raises(DataError) as caught:
        check(with_family("deepseek-v3"), *messages, column=column)
    assert str(caught.value).startswith(f"chats.jsonl, row 1: {said if message else column}")


def test_calls_and_thoughts_need_no_content() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    calling = {"role": "assistant", "content": None, "tool_calls": [call]}
    check(with_family("deepseek-v3"), USER, calling, {"role": "tool", "content": "o"}, ANSWER)
    check(with_family("deepseek-v3"), USER, {**ANSWER, "content": None, "reasoning_content": "r"})


@pytest.mark.parametrize("column", ["messages", "completion", "chosen", "rejected"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_thought_that_never_ends_is_no_target(family: str, column: str) -> None:
    cut = {"role": "assistant", "content": " <think>one and one are"}
    with pytest.raises(DataError) as caught:
        check(with_family(family), USER, cut, column=column)
    assert str(caught.value) == (
        "chats.jsonl, row 1: an assistant message opens <think> and does not close it: what "
        "follows would be trained as the answer\n"
        "  close it with </think>, or leave the row out: it was cut off"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_tool_definitions_are_written_or_refused(family: str) -> None:
    tokenizer = with_family(family)
    if family in WRITES_TOOLS:
        check(tokenizer, USER, ANSWER, tools=[TOOL])
        return
    with pytest.raises(DataError) as caught:
        check(tokenizer, USER, ANSWER, tools=[TOOL])
    assert str(caught.value) == (
        "chats.jsonl, row 1: there are tool definitions, and the chat template does not write "
        "them: the model would not know its tools\n"
        "  name a template that does, such as --chat_template deepseek-v4, write them into the "
        "system message, or remove them"
    )


def test_tool_definitions_that_the_system_message_gives_are_known() -> None:
    system = {"role": "system", "content": "You may call look_up."}
    check(with_family("deepseek-v3"), system, USER, ANSWER, tools=[TOOL])


@pytest.mark.parametrize("tools", ["[{", '{"name": "f"}'])
def test_tools_that_are_no_definitions_are_refused(tools: str) -> None:
    with pytest.raises(DataError, match="row 1: column 'tools' holds"):
        check(with_family("deepseek-v4"), USER, ANSWER, tools=tools)


def test_thoughts_between_calls_are_targets_too() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    calling = {"role": "assistant", "content": "", "reasoning_content": "why", "tool_calls": [call]}
    turns = [USER, calling, {"role": "tool", "content": "o", "tool_call_id": "c"}, ANSWER]
    with pytest.raises(DataError, match="row 1: an assistant turn behind the last question has re"):
        check(with_family("deepseek-v4"), *turns)  # drops older thoughts where no tool is defined
    check(with_family("deepseek-v4"), *turns, tools=[TOOL])
    check(with_family("deepseek-r1"), *turns)


def test_a_template_without_an_end_of_turn_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = with_source("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    with caplog.at_level(logging.WARNING):
        check(tokenizer, USER, ANSWER)
        check(tokenizer, USER, ANSWER)
    assert [record.getMessage() for record in caplog.records] == [
        "the chat template writes no end of turn behind an answer (it could be "
        "'<｜end▁of▁sentence｜>'): the model would not learn to stop"
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_ends_its_turns(family: str, caplog: pytest.LogCaptureFixture) -> None:
    check(with_family(family), USER, ANSWER)
    assert not caplog.records


@pytest.mark.parametrize("kind", ["SFT", "DPO", "KTO", "Reward", "GRPO"])
def test_every_trainer_refuses_a_role_before_it_holds_a_model(kind: str, tmp_path: Path) -> None:
    asking = [{"role": "critic", "content": "x"}, USER]
    rows: dict[str, dict[str, Any]] = {
        "SFT": {"prompt": asking, "completion": [ANSWER]},
        "KTO": {"prompt": asking, "completion": [ANSWER], "label": True},
        "GRPO": {"prompt": asking},
    }
    pair = {"prompt": asking, "chosen": [ANSWER], "rejected": [{**ANSWER, "content": "b"}]}
    row = rows.get(kind, pair)
    config = getattr(trl_deepseek, f"{kind}Config")
    args = config(str(tmp_path), chat_template="deepseek-v3", report_to="none", use_cpu=True)
    functions = {"reward_funcs": [lambda completions, **_: [0.0]]} if kind == "GRPO" else {}
    with pytest.raises(TemplateError, match=r'row 0: .* no role "critic"; its roles'):
        getattr(trl_deepseek, f"{kind}Trainer")(
            "tiny-deepseek-llm", args=args, train_dataset=Dataset.from_list([row]), **functions
        )


def test_grpo_writes_no_tools_of_a_row(tmp_path: Path) -> None:
    args = trl_deepseek.GRPOConfig(
        str(tmp_path), chat_template="deepseek-v4", report_to="none", use_cpu=True
    )
    data = Dataset.from_list([{"prompt": [USER], "tools": [TOOL]}])
    with pytest.raises(DataError, match="row 0: the column tools has definitions, and here promp"):
        trl_deepseek.GRPOTrainer(
            "tiny-deepseek-llm",
            reward_funcs=[lambda completions, **_: [0.0]],
            args=args,
            train_dataset=data,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_no_system_message_is_lost(family: str) -> None:
    systems = [{"role": "system", "content": said} for said in ("Be brief.", "Be kind.")]
    tokenizer = with_family(family)
    text = tokenizer.apply_chat_template([*systems, USER, ANSWER], tokenize=False)
    if "Be brief." in text and "Be kind." in text:
        check(tokenizer, *systems, USER, ANSWER)
        return
    with pytest.raises(DataError) as caught:
        check(tokenizer, *systems, USER, ANSWER)
    assert str(caught.value) == (
        "chats.jsonl, row 1: there are 2 system messages, and the chat template does not write "
        "all of them\n  join them into one, or name a template that writes several"
    )


THOUGHT = {"reasoning_content": "sum them"}
TWICE = (
    "an assistant message has more reasoning than one thought at its start: the rest would be "
    "trained as the answer"
)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"content": "<think>a</think>4<think>b</think>5"}, TWICE),
        ({"content": "Hm. <think>a</think>4"}, TWICE),
        ({"content": "<think>a</think>4", **THOUGHT}, TWICE),
        ({"content": "4", "reasoning_content": 7}, "the assistant message 1 has a reasoning_cont"),
        ({"content": "4", "role": "user", **THOUGHT}, "the user message 1 has a reasoning_content"),
    ],
)
@pytest.mark.parametrize("family", ["deepseek-llm", "deepseek-r1", "deepseek-v3.1"])
def test_a_thought_out_of_place_is_no_target(
    family: str, message: dict[str, Any], said: str
) -> None:
    row = {"messages": [USER, {"role": "assistant", **message}, ANSWER]}
    with pytest.raises(DataError) as caught:
        chat.check_conversations(Dataset.from_list([row]), with_family(family), "chats.jsonl")
    assert str(caught.value).startswith(f"chats.jsonl, row 0: {said}")


def test_a_part_without_its_text_is_refused() -> None:
    asked, empty = ({"content": [{"type": "text", "text": text}]} for text in ("q", None))
    row = {"messages": [{**USER, **asked}, {**ANSWER, **empty}]}
    with pytest.raises(DataError, match="row 0: the assistant message 1 has a part of type text w"):
        chat.check_conversations(Dataset.from_list([row]), with_family("deepseek-v3"), "chats")


def test_a_thought_that_the_prompt_has_opened_is_one() -> None:
    check(with_family("deepseek-r1"), USER, {"role": "assistant", "content": "sum</think>4"})


@pytest.mark.parametrize("column", ["chosen", "rejected"])
def test_an_answer_ends_with_the_assistant(column: str) -> None:
    with pytest.raises(DataError, match=f"row 1: the last message of {column} is the user.s, and"):
        check(with_family("deepseek-v3"), ANSWER, {"role": "user", "content": "x"}, column=column)


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("deepseek-v3", ["writes a later system message before the turns that it follows"]),
        (
            "deepseek-r1",
            [
                "leaves out the reasoning of turns before the last question (drop_thinking false "
                "in chat_template_kwargs keeps it)",
                "writes a later system message before the turns that it follows",
            ],
        ),
    ],
)
def test_what_a_template_writes_otherwise_is_said(
    family: str, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    late = {"role": "system", "content": "be rude"}
    turns = [USER, {"role": "assistant", "content": "4", **THOUGHT}, late, USER, ANSWER]
    with caplog.at_level(logging.WARNING):
        check(with_family(family), *turns)
    assert [r.getMessage() for r in caplog.records] == [
        f"chats.jsonl, row 1: the chat template {change}" for change in said
    ]
