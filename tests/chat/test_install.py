from __future__ import annotations

from typing import Any

import pytest

from trl_deepseek import chat, load_registry
from trl_deepseek.errors import TemplateError, UnknownName

REGISTRY = load_registry()


@pytest.fixture
def model_and_tokenizer() -> tuple[Any, Any]:
    return REGISTRY.models["tiny-deepseek-llm"]()


def test_a_tokenizer_trains_with_one_template_and_is_saved_with_the_other(
    model_and_tokenizer: tuple[Any, Any], tmp_path: Any
) -> None:
    from transformers import AutoTokenizer

    _, tokenizer = model_and_tokenizer
    template = chat.install(tokenizer, "deepseek-r1", REGISTRY)
    assert "{%- generation -%}" in tokenizer.chat_template
    with chat.inference_template(tokenizer):
        tokenizer.save_pretrained(tmp_path)
    assert tokenizer.chat_template == template.training
    saved = AutoTokenizer.from_pretrained(tmp_path)
    assert saved.chat_template == template.inference
    assert "generation -%}" not in saved.chat_template
    user = [{"role": "user", "content": "hi"}]
    assert saved.apply_chat_template(user, tokenize=False, add_generation_prompt=True) == (
        "<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜><think>\n"
    )


def test_the_model_stops_at_the_end_of_turn_and_at_its_old_end(
    model_and_tokenizer: tuple[Any, Any],
) -> None:
    model, tokenizer = model_and_tokenizer
    old = tokenizer.eos_token_id
    chat.install(tokenizer, "role-tokens", REGISTRY)
    chat.set_stop_tokens(model, tokenizer)
    new = tokenizer.convert_tokens_to_ids("<|end|>")
    assert model.generation_config.eos_token_id == [new, old]
    assert tokenizer.eos_token == "<|end|>"


def test_installing_twice_keeps_the_first_end_as_a_stop(
    model_and_tokenizer: tuple[Any, Any],
) -> None:
    model, tokenizer = model_and_tokenizer
    old = tokenizer.eos_token_id
    chat.install(tokenizer, "role-tokens", REGISTRY)
    chat.install(tokenizer, "role-tokens", REGISTRY)
    chat.set_stop_tokens(model, tokenizer)
    assert old in model.generation_config.eos_token_id


def test_a_tokenizer_without_the_end_of_turn_is_refused(
    model_and_tokenizer: tuple[Any, Any],
) -> None:
    from trl_deepseek import ChatTemplate

    _, tokenizer = model_and_tokenizer
    source = "{{ messages[0].content }}"
    with pytest.raises(TemplateError, match=r"no token '<\|im_end\|>'"):
        chat.install(tokenizer, ChatTemplate(source, source, end_of_turn="<|im_end|>"))


@pytest.mark.parametrize(
    ("family", "prefix"),
    [("deepseek-v3", ""), ("deepseek-r1", "<think>\n"), ("role-tokens", "")],
)
def test_the_generation_prefix_is_what_the_prompt_writes_behind_the_header(
    model_and_tokenizer: tuple[Any, Any], family: str, prefix: str
) -> None:
    _, tokenizer = model_and_tokenizer
    assert chat.generation_prefix(tokenizer) == ""
    chat.install(tokenizer, family, REGISTRY)
    assert chat.generation_prefix(tokenizer) == prefix


def test_a_family_is_recognised_by_how_the_tokenizer_renders_and_by_the_models_name(
    model_and_tokenizer: tuple[Any, Any],
) -> None:
    _, tokenizer = model_and_tokenizer
    tokenizer.chat_template = None
    assert chat.recognise(tokenizer, "deepseek-ai/DeepSeek-R1", REGISTRY) == "deepseek-r1"
    assert chat.recognise(tokenizer, "acme/some-model", REGISTRY) is None
    tokenizer.chat_template = REGISTRY.chat_templates["deepseek-v3"].inference
    assert chat.recognise(tokenizer, "acme/some-model", REGISTRY) == "deepseek-v3"
    tokenizer.chat_template = "{{ messages[0].content }}"
    assert chat.recognise(tokenizer, "deepseek-ai/DeepSeek-R1", REGISTRY) is None


def test_an_unknown_name_says_what_is_near() -> None:
    with pytest.raises(UnknownName, match="did you mean 'deepseek-v3'"):
        chat.resolve("deepsek-v3", REGISTRY)


def test_a_jinja_file_is_a_template_and_a_broken_one_is_refused(tmp_path: Any) -> None:
    good, broken = tmp_path / "good.jinja", tmp_path / "broken.jinja"
    good.write_text("{{ messages[0].content }}")
    broken.write_text("{% for %}")
    user = [{"role": "user", "content": "hi"}]
    assert chat.render(chat.resolve(str(good), REGISTRY), user) == "hi"
    with pytest.raises(TemplateError, match="not valid Jinja"):
        chat.resolve(str(broken), REGISTRY)
    with pytest.raises(TemplateError, match="cannot be read"):
        chat.resolve(str(tmp_path / "none.jinja"), REGISTRY)
