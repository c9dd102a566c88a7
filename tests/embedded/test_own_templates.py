"""Embedded models carry the chat template of their family."""

from __future__ import annotations

from typing import Any

import pytest

from trl_deepseek import ChatTemplate, chat, hookimpl, load_registry

FAMILIES = {
    "tiny-deepseek-llm": "deepseek-llm",
    "tiny-deepseek-v2": "deepseek-v2.5",
    "tiny-deepseek-v3": "deepseek-v3",
}
SOURCE = "{{ messages[0].content }}"


@pytest.mark.parametrize(("name", "family"), sorted(FAMILIES.items()))
def test_the_tokenizer_renders_as_its_family(name: str, family: str) -> None:
    registry = load_registry()
    _, tokenizer = registry.models[name](seed=3)
    assert tokenizer.chat_template == registry.chat_templates[family].inference
    assert chat.recognise(tokenizer, name, registry) == family


def test_without_the_templates_plugin_it_carries_none() -> None:
    registry = load_registry(block=["deepseek-chat"])
    assert not list(registry.chat_templates)
    assert registry.models["tiny-deepseek-llm"]()[1].chat_template is None


class Plugin:
    """A model of someone else's, with a template for it."""

    @hookimpl
    def register_models(self, register: Any) -> None:
        def build(seed: int = 0) -> Any:
            return load_registry().models["tiny-deepseek-v3"](seed=seed)

        def bare(seed: int = 0) -> Any:
            model, tokenizer = build(seed)
            tokenizer.chat_template = None
            return model, tokenizer

        register("mine", build)
        register("bare", bare)

    @hookimpl
    def register_chat_templates(self, register: Any) -> None:
        register("plain", ChatTemplate(SOURCE, SOURCE, models=("bare", "mine")))


def test_a_builder_that_brings_a_template_keeps_it() -> None:
    registry = load_registry(plugins=[Plugin()])
    assert registry.models["bare"]()[1].chat_template == SOURCE
    own = registry.models["mine"]()[1].chat_template
    assert own == registry.chat_templates["deepseek-v3"].inference
