from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trl_deepseek import Registry, chat, load_registry
from trl_deepseek.adapters import lora, merging
from trl_deepseek.errors import ConfigError, ModelError
from trl_deepseek.generation import Sampling, check, complete, load

NAME = "tiny-deepseek-llm"
PROMPTS: Any = [[{"role": "user", "content": "12+34"}], [{"role": "user", "content": "7"}], "plain"]
GREEDY = Sampling(max_new_tokens=12)


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


@pytest.fixture(scope="module")
def adapter(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A LoRA on the embedded model of seed 3, whose weights change what it says."""
    from peft import get_peft_model

    folder = tmp_path_factory.mktemp("adapter")
    model, tokenizer = registry.models[NAME](seed=3)
    config = lora.adapter(registry.quantizations["lora"], model.config)
    config.base_model_name_or_path, config.revision = NAME, "seed-3"
    adapted = get_peft_model(model, config)
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    adapted.peft_config["default"].base_model_name_or_path = NAME
    adapted.peft_config["default"].revision = "seed-3"
    adapted.save_pretrained(str(folder))
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_an_adapter_answers_as_it_does_merged(
    adapter: str, registry: Registry, tmp_path: Path
) -> None:
    source = merging.inspect(adapter, registry)
    merging.merge(source, tmp_path / "merged", registry, dtype=torch.float32, max_new_tokens=2)
    unmerged, tokenizer = load(adapter, registry)
    assert hasattr(unmerged, "peft_config")
    merged, own = load(str(tmp_path / "merged"), registry)
    base = registry.models[NAME](seed=3)[0]
    found = complete(unmerged, tokenizer, PROMPTS, GREEDY)
    assert found == complete(merged, own, PROMPTS, GREEDY)
    assert found != complete(base, tokenizer, PROMPTS, GREEDY)


def test_the_base_of_an_adapter_is_held_as_it_was_in_training(
    adapter: str, registry: Registry
) -> None:
    record = Path(adapter, "trl_deepseek.json")
    record.write_text(json.dumps({"settings": {"quantization": "int8"}}))
    try:
        model, _ = load(adapter, registry)
        assert model.get_base_model().is_loaded_in_8bit
        record.write_text(json.dumps({"settings": {"quantization": "mine"}}))
        with pytest.raises(ConfigError, match="held as 'mine', which no plugin registers"):
            check(adapter, registry)
        record.write_text("{")
        with pytest.raises(ModelError, match=r"trl_deepseek.json cannot be read"):
            check(adapter, registry)
    finally:
        record.unlink()


def test_an_adapter_without_its_base_is_refused(
    adapter: str, registry: Registry, tmp_path: Path
) -> None:
    settings = json.loads(Path(adapter, "adapter_config.json").read_text())
    for base, said in ((None, "name it in its adapter_config.json"), ("./gone", "does not exist")):
        settings["base_model_name_or_path"] = base
        (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
        (tmp_path / "adapter_model.safetensors").write_bytes(
            Path(adapter, "adapter_model.safetensors").read_bytes()
        )
        with pytest.raises(ModelError, match=said):
            check(str(tmp_path), registry)


def test_weights_that_are_not_numbers_are_refused(registry: Registry, tmp_path: Path) -> None:
    model, tokenizer = registry.models[NAME]()
    with torch.no_grad():
        model.lm_head.weight[3, 4] = float("nan")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"NaN or infinite: lm_head\.weight"):
        load(str(tmp_path), registry)


def test_the_end_of_turn_of_the_template_ends_an_answer(registry: Registry) -> None:
    model, tokenizer = load(NAME, registry, chat_template="role-tokens")
    template = chat.installed(tokenizer)
    assert template is not None
    end = tokenizer.convert_tokens_to_ids(template.end_of_turn)
    assert end in model.generation_config.eos_token_id
    assert not model.training
