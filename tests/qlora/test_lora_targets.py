from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from trl_deepseek import Registry, load_registry, quantization
from trl_deepseek.adapters import lora
from trl_deepseek.errors import ConfigError
from trl_deepseek.types import Quantization

ATTENTION_V2 = {"q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}
ATTENTION_V3 = {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}
EXPECTED = {
    "tiny-deepseek-llm": {"q_proj", "k_proj", "v_proj", "o_proj"} | MLP,
    "tiny-deepseek-v2": ATTENTION_V2 | MLP,
    "tiny-deepseek-v3": ATTENTION_V3 | MLP,
}
SEED_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


def config_of(registry: Registry, name: str) -> Any:
    return registry.models[name](seed=0)[0].config


def adapted(model: Any) -> set[str]:
    """Modules that carry LoRA, without the layer's number."""
    return {
        name.split(".layers.")[1].split(".", 1)[1].removesuffix(".lora_A.default")
        for name, _ in model.named_modules()
        if name.endswith(".lora_A.default")
    }


def logits(model: Any) -> torch.Tensor:
    ids = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(ids).logits.float()


def with_random_adapter(model: Any) -> Any:
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_llama_gets_the_seven_of_the_recipe(registry: Registry) -> None:
    assert lora.target_modules(config_of(registry, "tiny-deepseek-llm")) == SEED_TARGETS


@pytest.mark.parametrize("held", ["qlora", "int8", "lora"])
@pytest.mark.parametrize("name", list(EXPECTED))
def test_attention_dense_and_shared_layers_are_adapted_and_nothing_else(
    registry: Registry, name: str, held: str
) -> None:
    chosen = registry.quantizations[held]
    config = config_of(registry, name)
    model = quantization.load(registry.models[name](seed=0)[0], chosen, torch.bfloat16)
    model = get_peft_model(model, lora.adapter(chosen, config))
    linear = {f"self_attn.{n}" for n in EXPECTED[name] - MLP} | {f"mlp.{n}" for n in MLP}
    shared = {f"mlp.shared_experts.{n}" for n in MLP}
    assert adapted(model) == (linear if name.endswith("llm") else linear | shared)


def test_peft_alone_would_adapt_the_routed_experts_instead(registry: Registry) -> None:
    # The reason for PinnedLoraConfig; when this fails, peft has changed and it can go.
    model, _ = registry.models["tiny-deepseek-v3"](seed=0)
    stock = get_peft_model(model, LoraConfig(target_modules=["q_a_proj", *sorted(MLP)]))
    assert not any("shared_experts" in name for name in adapted(stock))
    assert any("experts" in name for name in adapted(stock))


@pytest.mark.parametrize("name", ["tiny-deepseek-v2", "tiny-deepseek-v3"])
def test_routed_experts_are_adapted_on_request_with_the_rank_asked_for(
    registry: Registry, name: str
) -> None:
    chosen = registry.quantizations["qlora-lora-experts"]
    held = quantization.load(registry.models[name](seed=0)[0], chosen, torch.bfloat16)
    adapter = lora.adapter(chosen, config_of(registry, name), r=8)
    model = get_peft_model(held, adapter)
    experts = {n: p for n, p in model.named_parameters() if ".mlp.experts." in n and "lora_A" in n}
    assert len(experts) == 4  # two parameters in each of two MoE layers
    # 8 experts with rank 8 each
    assert {p.shape[0] for p in experts.values()} == {64}


@pytest.mark.parametrize(
    ("name", "held", "experts"),
    [
        ("tiny-deepseek-llm", "lora", False),
        ("tiny-deepseek-v2", "lora", False),
        ("tiny-deepseek-v2", "lora", True),
        ("tiny-deepseek-v3", "lora", False),
        ("tiny-deepseek-v3", "lora", True),
    ],
)
def test_plain_peft_and_transformers_load_the_adapter(
    registry: Registry, name: str, held: str, experts: bool, tmp_path: Path
) -> None:
    class Args:
        quantization = held
        lora_experts = experts

    chosen = quantization.choose(Args(), registry)
    assert chosen is not None
    base = quantization.load(registry.models[name](seed=0)[0], chosen, torch.float32)
    model = get_peft_model(base, lora.adapter(chosen, base.config))
    expected = logits(with_random_adapter(model))
    model.save_pretrained(tmp_path)

    again = PeftModel.from_pretrained(registry.models[name](seed=0)[0], str(tmp_path))
    assert (logits(again) - expected).norm() / expected.norm() < 1e-5
    with again.disable_adapter():
        assert (logits(again) - expected).norm() / expected.norm() > 0.5
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["peft_type"] == "LORA"
    assert not saved["exclude_modules"]


def test_a_target_that_matches_nothing_lists_what_exists(registry: Registry) -> None:
    config = config_of(registry, "tiny-deepseek-v3")
    with pytest.raises(ConfigError) as caught:
        lora.check(["q_proj"], None, config)
    assert str(caught.value) == (
        "lora_target_modules: 'q_proj' matches no linear layer of this deepseek_v3 model\n"
        "  it has: down_proj, gate_proj, kv_a_proj_with_mqa, kv_b_proj, o_proj, q_a_proj, "
        "q_b_proj, up_proj"
    )


def test_an_expert_parameter_that_does_not_exist_is_refused(registry: Registry) -> None:
    config = config_of(registry, "tiny-deepseek-v2")
    with pytest.raises(ConfigError) as caught:
        lora.check(["o_proj"], ["mlp.experts.up_proj"], config)
    assert str(caught.value) == (
        "lora_target_parameters: 'mlp.experts.up_proj' matches no expert parameter of this "
        "deepseek_v2 model\n  it has: mlp.experts.down_proj, mlp.experts.gate_up_proj"
    )


@pytest.mark.parametrize("target", ["gate", "mlp.gate"])
@pytest.mark.parametrize("name", ["tiny-deepseek-v2", "tiny-deepseek-v3"])
def test_the_router_is_never_adapted(registry: Registry, name: str, target: str) -> None:
    with pytest.raises(ConfigError, match="is the router of the experts"):
        lora.check([target], None, config_of(registry, name))


def test_the_head_is_never_adapted(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="lora_modules_to_save lm_head"):
        lora.check(["lm_head"], None, config_of(registry, "tiny-deepseek-llm"))


@pytest.mark.parametrize("target", ["all-linear", r".*\.self_attn\.(q|v)_proj"])
def test_patterns_are_taken_as_peft_takes_them(registry: Registry, target: str) -> None:
    lora.check(target, None, config_of(registry, "tiny-deepseek-llm"))


def test_dropout_on_experts_is_refused_before_peft_does(registry: Registry) -> None:
    chosen = registry.quantizations["qlora-lora-experts"]
    config = config_of(registry, "tiny-deepseek-v2")
    with pytest.raises(ConfigError, match=r"lora_dropout is 0\.1: peft has no dropout"):
        lora.adapter(chosen, config, lora_dropout=0.1)


def test_lora_on_experts_of_a_model_without_any_is_refused(registry: Registry) -> None:
    chosen = Quantization(lora_experts=True, quantize_experts=False)
    with pytest.raises(ConfigError, match=r"it has: \(no routed experts\)"):
        lora.adapter(chosen, config_of(registry, "tiny-deepseek-llm"))


def test_a_reward_model_trains_its_head_whole(registry: Registry) -> None:
    config = config_of(registry, "tiny-deepseek-llm")
    adapter = lora.adapter(registry.quantizations["qlora"], config, True)
    assert adapter.modules_to_save == ["score"]
    assert adapter.task_type == "SEQ_CLS"


def test_all_layers_of_v3_are_not_adapted_where_the_router_would_break(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl_deepseek import releases

    config = config_of(registry, "tiny-deepseek-v3")
    monkeypatch.setattr(releases, "has", lambda release: release != "5.13")
    with pytest.raises(ConfigError) as caught:
        lora.check("all-linear", None, config)
    first, second = str(caught.value).splitlines()
    assert first == (
        "target_modules: 'all-linear' takes the router of this deepseek_v3 model too, which breaks "
        "it here"
    )
    assert second.startswith("  transformers 5.13 or newer; this is ")
    assert second.endswith("; or name the layers, such as q_a_proj, q_b_proj, kv_a_proj_with_mqa")
