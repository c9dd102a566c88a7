from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from datasets import Dataset
from torch.nn import functional as F

import trl_deepseek
from trl_deepseek import load_registry
from trl_deepseek.errors import TemplateError

USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
CHATS = [
    [("user", "1+1"), ("assistant", "2")],
    [("user", "a longer question"), ("assistant", "four"), ("user", "and"), ("assistant", "five!")],
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def messages(chat: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in chat]


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Any]:
    def make(
        rows: list[dict[str, Any]],
        module: Any = trl_deepseek,
        model: str = "tiny-deepseek-llm",
        own_template: str | None = None,
        attention: str = "sdpa",
        **options: Any,
    ) -> Any:
        built, tokenizer = load_registry().models[model](seed=0)
        built.set_attn_implementation(attention)
        tokenizer.chat_template = own_template
        defaults = {"use_cpu": True, "bf16": False, "report_to": "none", "shuffle_dataset": False}
        return module.SFTTrainer(
            built,
            module.SFTConfig(str(tmp_path), **{**defaults, **options}),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )

    return make


def seeds_labels(input_ids: torch.Tensor, assistant_mask: torch.Tensor) -> torch.Tensor:
    """The labels as the method's description has them."""
    labels = input_ids.clone()
    labels[~assistant_mask] = -100
    return labels


def tokens(tokenizer: Any, parts: list[tuple[str, bool]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids of a rendering written by hand, and which of them the assistant generates."""
    ids: list[int] = []
    mask: list[bool] = []
    for text, generated in parts:
        part = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += part
        mask += [generated] * len(part)
    return torch.tensor(ids), torch.tensor(mask)


def v3(chat: list[tuple[str, str]]) -> list[tuple[str, bool]]:
    parts = [(BOS, False)]
    for role, content in chat:
        header = USER if role == "user" else ASSISTANT
        parts += [(header, False)]
        parts += [(content, False)] if role == "user" else [(content + EOS, True)]
    return parts


def role_tokens(chat: list[tuple[str, str]]) -> list[tuple[str, bool]]:
    parts = []
    for role, content in chat:
        generated = role == "assistant"
        parts += [(f"<|{role}|>\n", False), (f"{content}\n<|end|>", generated), ("\n", False)]
    return parts


@pytest.mark.parametrize(
    ("template", "by_hand"), [("deepseek-v3", v3), ("role-tokens", role_tokens)]
)
def test_labels_are_the_seeds_and_the_loss_is_plain_cross_entropy_on_them(
    build: Callable[..., Any], template: str, by_hand: Callable[..., Any]
) -> None:
    trainer = build([{"messages": messages(chat)} for chat in CHATS], chat_template=template)
    expected = []
    for row, chat in zip(trainer.train_dataset, CHATS, strict=True):
        ids, mask = tokens(trainer.processing_class, by_hand(chat))
        labels = seeds_labels(ids, mask)
        assert row["input_ids"] == ids.tolist()
        assert row["labels"] == labels.tolist()
        expected.append((ids, labels))

    batch = trainer.data_collator(list(trainer.train_dataset))
    loss = trainer.compute_loss(trainer.model, dict(batch))
    summed, count = torch.zeros((), dtype=torch.float64), 0
    for ids, labels in expected:
        logits = trainer.model(input_ids=ids[None]).logits[0].double()
        summed += F.cross_entropy(logits[:-1], labels[1:], ignore_index=-100, reduction="sum")
        count += int((labels[1:] != -100).sum())
    assert loss.item() == pytest.approx(summed.item() / count, rel=1e-6)


def scored(trainer: Any, row: int = 0) -> str:
    labels = trainer.train_dataset[row]["labels"]
    text: str = trainer.processing_class.decode([token for token in labels if token != -100])
    return text


ALPACA = {"instruction": "1+1", "input": "", "output": "2"}
SHAREGPT = {"conversations": [{"from": "human", "value": "1+1"}, {"from": "gpt", "value": "2"}]}
WHOLE = f"{BOS}{USER}1+1{ASSISTANT}2{EOS}"


@pytest.mark.parametrize(
    ("row", "options", "expected"),
    [
        pytest.param({"messages": messages(CHATS[0])}, {}, f"2{EOS}", id="messages"),
        pytest.param(
            {"messages": messages(CHATS[0])}, {"assistant_only_loss": False}, WHOLE, id="told not"
        ),
        pytest.param(ALPACA, {}, f"2{EOS}", id="Alpaca"),
        pytest.param(SHAREGPT, {}, f"2{EOS}", id="ShareGPT"),
        pytest.param(
            {"prompt": messages(CHATS[0][:1]), "completion": messages(CHATS[0][1:])},
            {},
            f"2{EOS}",
            id="prompt and completion",
        ),
        pytest.param(
            {"prompt": messages(CHATS[0][:1]), "completion": messages(CHATS[0][1:])},
            {"assistant_only_loss": False},
            f"2{EOS}",
            id="completion only by itself",
        ),
        pytest.param({"prompt": "1+1=", "completion": "2"}, {}, f"2{EOS}", id="text pair"),
        pytest.param({"text": "1+1=2"}, {}, f"1+1=2{EOS}", id="text"),
    ],
)
def test_what_the_loss_is_on_with_a_registered_template(
    build: Callable[..., Any], row: dict[str, Any], options: dict[str, Any], expected: str
) -> None:
    assert scored(build([row], chat_template="deepseek-v3", **options)) == expected


def test_a_completion_that_calls_a_tool_is_not_trained_on_the_tools_answer(
    build: Callable[..., Any],
) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": "{}"}}
    row = {
        "prompt": messages([("user", "1+1")]),
        "completion": [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "output of the tool"},
            {"role": "assistant", "content": "2"},
        ],
    }
    text = scored(build([row], chat_template="deepseek-v3"))
    assert "add" in text
    assert "2" in text
    assert "output of the tool" not in text


@pytest.mark.parametrize(
    "row",
    [
        {"messages": messages(CHATS[0])},
        {"prompt": messages(CHATS[0][:1]), "completion": messages(CHATS[0][1:])},
        {"prompt": "1+1=", "completion": "2"},
        {"text": "1+1=2"},
    ],
    ids=["messages", "prompt and completion", "text pair", "text"],
)
def test_without_anything_of_ours_the_labels_are_trls(
    build: Callable[..., Any], row: dict[str, Any]
) -> None:
    ours = build([row], own_template=CHATML)
    theirs = build([row], own_template=CHATML, module=trl)
    assert ours.template_name is None
    assert list(ours.train_dataset) == list(theirs.train_dataset)
    assert ours.args.assistant_only_loss is False


def test_conversations_without_a_template_are_refused(build: Callable[..., Any]) -> None:
    with pytest.raises(TemplateError) as error:
        build([ALPACA])
    assert str(error.value).startswith(
        "train_dataset holds conversations, and the tokenizer has no chat template\n"
        "  name one with chat_template; registered: "
    )


def test_the_config_stays_as_the_user_wrote_it(build: Callable[..., Any], tmp_path: Path) -> None:
    model, tokenizer = load_registry().models["tiny-deepseek-llm"]()
    args = trl_deepseek.SFTConfig(
        str(tmp_path), use_cpu=True, bf16=False, chat_template="deepseek-v3"
    )
    trainer = trl_deepseek.SFTTrainer(
        model, args, train_dataset=Dataset.from_list([ALPACA]), processing_class=tokenizer
    )
    assert trainer.args.assistant_only_loss is True
    assert args.assistant_only_loss is None


def test_a_template_file_without_generation_marks_is_said_to_train_on_everything(
    build: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "plain.jinja"
    file.write_text(CHATML)
    trainer = build([{"messages": messages(CHATS[0])}], chat_template=str(file))
    assert trainer.args.assistant_only_loss is False
    assert (
        f"chat template {file} has no {{% generation %}}: the loss is not on the assistant's "
        "tokens only"
    ) in caplog.messages


def test_an_evaluation_on_new_alpaca_rows_is_read_alike(build: Callable[..., Any]) -> None:
    trainer = build([ALPACA], chat_template="deepseek-v3", per_device_eval_batch_size=1)
    by_rows = trainer.evaluate(Dataset.from_list([ALPACA]))["eval_loss"]
    as_messages = Dataset.from_list([{"messages": messages(CHATS[0])}])
    assert by_rows == pytest.approx(trainer.evaluate(as_messages)["eval_loss"])


def test_plain_training_arguments_are_taken_as_trl_takes_them(tmp_path: Path) -> None:
    from transformers import TrainingArguments

    model, tokenizer = load_registry().models["tiny-deepseek-llm"]()
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, learning_rate=3e-4)
    data = Dataset.from_list([{"prompt": "1+1=", "completion": "2"}])
    trainer = trl_deepseek.SFTTrainer(
        model, arguments, train_dataset=data, processing_class=tokenizer
    )
    assert trainer.args.learning_rate == 3e-4
    assert scored(trainer) == f"2{EOS}"


def balance_of(affinities: list[torch.Tensor], mask: torch.Tensor) -> float:
    """DeepSeek-V3's balancing loss, arXiv:2412.19437, equations 17 to 20, over all layers."""
    normalised = torch.cat(
        [layer[mask] / layer[mask].sum(-1, keepdim=True) for layer in affinities]
    )
    chosen = torch.zeros_like(normalised).scatter_(1, normalised.topk(2).indices, 1.0)
    return float(normalised.shape[1] * (chosen.mean(0) * normalised.mean(0)).sum())


@pytest.mark.transformers("5.19")
def test_the_experts_of_v3_are_balanced_by_the_papers_loss(build: Callable[..., Any]) -> None:
    """Stock TRL reads a field that DeepSeek-V3's config does not have, and crashes."""
    rows = [{"messages": messages(chat)} for chat in CHATS]
    options = {"model": "tiny-deepseek-v3", "chat_template": "deepseek-v3"}
    trainer = build(rows, **options, router_aux_loss_coef=0.5)
    without = build(rows, **options)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    affinities: list[torch.Tensor] = []
    gates = [m for name, m in trainer.model.named_modules() if name.endswith("mlp.gate")]
    hooks = [
        g.register_forward_hook(lambda *c: affinities.append(c[2][0].sigmoid())) for g in gates
    ]
    loss = trainer.compute_loss(trainer.model, dict(batch))
    for hook in hooks:
        hook.remove()
    difference = float(loss - without.compute_loss(without.model, dict(batch)))
    assert difference == pytest.approx(
        0.5 * balance_of(affinities, batch["attention_mask"].flatten().bool()), rel=1e-4
    )
    assert not hasattr(trainer.model.config, "num_experts")
