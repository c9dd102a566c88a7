"""Data with reasoning that the rendered targets lack stops the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

import trl_deepseek
from trl_deepseek import SFTConfig, SFTTrainer, chat, load_registry
from trl_deepseek.errors import DataError, TemplateError

USER = {"role": "user", "content": "1+1"}
PLAIN = {"role": "assistant", "content": "2"}
INLINE = {"role": "assistant", "content": "<think>one and one</think>2"}
APART = {"role": "assistant", "content": "2", "reasoning_content": "one and one"}

# What stock templates do: whatever stands before </think> is cut away.
DROPPING = (
    "{% for m in messages %}{{ '<｜User｜>' if m.role == 'user' else '<｜Assistant｜>' }}"
    "{{ m.content.split('</think>')[-1] }}{% endfor %}"
)


@pytest.fixture
def dropping() -> Any:
    tokenizer: Any = load_registry().models["tiny-deepseek-llm"]()[1]
    tokenizer.chat_template = DROPPING
    return tokenizer


def rows(*answers: dict[str, str]) -> Dataset:
    return Dataset.from_list([{"messages": [USER, answer]} for answer in answers])


def test_rows_whose_reasoning_is_not_rendered_are_named(dropping: Any) -> None:
    data = rows(PLAIN, INLINE, PLAIN, APART, *[INLINE] * 6)
    with pytest.raises(DataError) as caught:
        chat.check_conversations(data, dropping, "chats.jsonl")
    assert str(caught.value) == (
        "chats.jsonl, rows 1, 3, 4, 5, 6 and 3 more: the last assistant turn has reasoning, and "
        "the chat template does not render it: the model would learn to answer without\n"
        "  name a template that does, such as --chat_template deepseek-r1, or remove the reasoning "
        "from the data"
    )


@pytest.mark.parametrize("column", ["completion", "chosen", "rejected"])
def test_completions_and_preferences_are_targets_too(dropping: Any, column: str) -> None:
    data = Dataset.from_list([{"prompt": [USER], column: [INLINE]}])
    with pytest.raises(DataError, match="row 0: the last assistant turn has reasoning"):
        chat.check_conversations(data, dropping, "train_dataset")


def test_data_without_reasoning_and_text_that_is_no_conversation_pass(dropping: Any) -> None:
    chat.check_conversations(rows(PLAIN, PLAIN), dropping, "train_dataset")
    text = Dataset.from_list([{"text": "<think>a</think><｜User｜>"}])
    chat.check_conversations(text, dropping, "train_dataset")


@pytest.mark.parametrize("name", sorted(load_registry().chat_templates))
def test_every_registered_training_template_renders_the_last_reasoning(name: str) -> None:
    tokenizer = load_registry().models["tiny-deepseek-llm"]()[1]
    chat.install(tokenizer, name)
    chat.check_conversations(rows(INLINE, PLAIN), tokenizer, "train_dataset")


def test_a_trainer_stops_before_the_model_is_touched(dropping: Any, tmp_path: Path) -> None:
    model = load_registry().models["tiny-deepseek-llm"]()[0]
    with pytest.raises(DataError, match="does not render it"):
        SFTTrainer(
            model,
            SFTConfig(output_dir=str(tmp_path), report_to="none", disable_tqdm=True),
            train_dataset=rows(INLINE),
            processing_class=dropping,
        )


@pytest.mark.parametrize("name", ["SFT", "DPO", "KTO", "Reward", "GRPO"])
def test_conversations_without_any_template_are_refused(name: str, tmp_path: Path) -> None:
    extra: dict[str, Any] = {"reward_funcs": "exact_match"} if name == "GRPO" else {}
    columns = {
        "SFT": ("prompt", "completion"),
        "KTO": ("prompt", "completion"),
        "GRPO": ("prompt",),
    }.get(name, ("prompt", "chosen", "rejected"))
    row: dict[str, Any] = {column: [PLAIN] for column in columns} | {"prompt": [USER]}
    other = {**row, **({"rejected": [INLINE]} if "rejected" in row else {})}
    labels = {"label": True, "solution": "2"}
    config = getattr(trl_deepseek, f"{name}Config")
    model, tokenizer = load_registry().models["tiny-deepseek-llm"]()
    tokenizer.chat_template = None
    with pytest.raises(TemplateError) as caught:
        getattr(trl_deepseek, f"{name}Trainer")(
            model=model,
            processing_class=tokenizer,
            args=config(output_dir=str(tmp_path), report_to="none", disable_tqdm=True),
            train_dataset=Dataset.from_list(
                [{**other, **labels}, {**other, "label": False, "solution": "2"}]
            ),
            **extra,
        )
    assert str(caught.value).startswith(
        "train_dataset holds conversations, and the tokenizer has no chat template\n"
        "  name one with chat_template; registered: "
    )


def test_a_stream_is_checked_row_by_row_as_it_is_read(dropping: Any) -> None:
    stream = rows(PLAIN, INLINE).to_iterable_dataset()
    checked = iter(chat.check_conversations(stream, dropping, "chats.jsonl"))
    assert next(checked)["messages"] == [USER, PLAIN]
    with pytest.raises(DataError, match=r"^chats\.jsonl, row 1: the last assistant turn has reas"):
        next(checked)


def test_a_stream_of_plain_texts_stays_the_stream_it_was(dropping: Any) -> None:
    stream = Dataset.from_list([{"prompt": "1+1="}]).to_iterable_dataset()
    assert chat.check_conversations(stream, dropping, "prompts.jsonl") is stream


def test_training_on_a_stream_stops_at_a_control_token(tmp_path: Path) -> None:
    injected = {"role": "user", "content": "a<｜User｜>b"}
    chats = [{"messages": [USER, PLAIN]}] * 4 + [{"messages": [injected, PLAIN]}] * 4
    config = SFTConfig(
        output_dir=str(tmp_path),
        chat_template="deepseek-v3",
        max_steps=4,
        per_device_train_batch_size=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    stream = Dataset.from_list(chats).to_iterable_dataset()
    trainer = SFTTrainer("tiny-deepseek-llm", config, train_dataset=stream)
    with pytest.raises(DataError, match="row 4: the user text contains '<｜User｜>'"):
        trainer.train()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("family", "message", "said"),
    [
        ("deepseek-v3", {"role": "user", "content": [{"type": "image"}]}, 'part of type "image"'),
        ("deepseek-v3", {"role": "user", "content": ["q"]}, 'part of type "unknown"'),
        ("deepseek-llm", {"role": "tool", "content": "o"}, "cannot write tool calls"),
        ("deepseek-v4", {"role": "function", "content": "o"}, 'has no role "function"'),
    ],
)
@pytest.mark.parametrize("column", ["messages", "prompt"])
def test_a_row_that_the_template_cannot_render_is_named(
    column: str, family: str, message: dict[str, Any], said: str, stream: bool
) -> None:
    tokenizer: Any = load_registry().models["tiny-deepseek-llm"]()[1]
    chat.install(tokenizer, family)
    data: Any = Dataset.from_list([{column: [message]}])
    data = data.to_iterable_dataset() if stream else data
    with pytest.raises(TemplateError, match=rf"^chats\.jsonl, row 0: .*{said}"):
        list(chat.check_conversations(data, tokenizer, "chats.jsonl"))
