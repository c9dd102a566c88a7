"""Which family a tokenizer or a model's name stands for, with no flag given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trl

from trl_deepseek import chat, load_registry

REGISTRY = load_registry()
FAMILIES = sorted(REGISTRY.chat_templates)
STOCK = Path(trl.__file__).parent / "chat_templates"


def tokenizer(source: str | None) -> Any:
    made: Any = REGISTRY.models["tiny-deepseek-llm"]()[1]
    made.chat_template = source
    return made


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_recognised_by_its_own_templates(family: str) -> None:
    template = REGISTRY.chat_templates[family]
    for source in filter(None, (template.inference, template.official)):
        assert chat.recognise(tokenizer(source), "acme/model", REGISTRY) == family


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_recognised_by_its_models_names(family: str) -> None:
    bare = tokenizer(None)
    for model in (family, *REGISTRY.chat_templates[family].models):
        assert chat.recognise(bare, f"deepseek-ai/{model.upper()}", REGISTRY) == family


def test_a_models_name_belongs_to_one_family() -> None:
    models = [m for t in REGISTRY.chat_templates.values() for m in t.models]
    assert len(models) > 40
    assert len({*models, *FAMILIES}) == len(models) + len(FAMILIES)


@pytest.mark.parametrize(
    ("file", "family"),
    [("deepseekv3.jinja", "deepseek-r1"), ("deepseek_r1_distill.jinja", "deepseek-r1-distill")],
)
def test_official_templates_that_trl_ships_are_recognised_as_what_they_are(
    file: str, family: str
) -> None:
    source = (STOCK / file).read_text(encoding="utf-8")
    assert chat.recognise(tokenizer(source), "acme/model", REGISTRY) == family


@pytest.mark.parametrize("file", ["deepseekv3.jinja", "deepseek_r1_distill.jinja"])
def test_templates_of_january_2025_that_open_no_reasoning_are_no_registered_family(
    file: str,
) -> None:
    source = (STOCK / file).read_text(encoding="utf-8")
    january = source.replace("<｜Assistant｜><think>\\n", "<｜Assistant｜>")
    assert january != source
    assert chat.recognise(tokenizer(january), "deepseek-ai/DeepSeek-R1", REGISTRY) is None


@pytest.mark.parametrize("policy", ["error", "escape"])
@pytest.mark.parametrize("family", ["deepseek-v3.2", "deepseek-v4", "deepseek-v4.1"])
def test_a_tokenizer_renders_arguments_given_as_json(family: str, policy: str) -> None:
    made = tokenizer(None)
    template = chat.install(made, family, REGISTRY)
    if policy == "escape":
        chat.escape(made)
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"n": 3}'}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    text = made.apply_chat_template(messages, tokenize=False)
    assert 'parameter name="n" string="false">3<' in text
    assert text == chat.render(template, messages, training=True)
