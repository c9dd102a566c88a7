from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trl_deepseek import Registry, hookimpl, load_registry, quantization
from trl_deepseek.errors import ConfigError, ModelError, PluginError, UnknownName
from trl_deepseek.types import Quantization

TINY = ("tiny-deepseek-llm", "tiny-deepseek-v2", "tiny-deepseek-v3")
WITH_EXPERTS = TINY[1:]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


def tokens() -> torch.Tensor:
    return torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(0))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(tokens()).logits.float()


def stored_bytes(model: Any, pattern: str = "") -> int:
    return sum(p.nbytes for name, p in model.named_parameters() if pattern in name)


def nf4_rounding_error(registry: Registry) -> float:
    """Relative size of the error that NF4 makes on Gaussian weights, by its table of 16 values."""
    # The quantiles of arXiv:2305.14314, appendix E.
    low = [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0]
    high = [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
    table = torch.tensor([*low, *high])
    weights = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
    scaled = weights / weights.abs().amax(1, keepdim=True)
    nearest = table[(scaled[..., None] - table).abs().argmin(-1)]
    return float((nearest - scaled).norm() / scaled.norm())


def test_shipped_names(registry: Registry) -> None:
    assert list(registry.quantizations) == ["int8", "lora", "qlora", "qlora-lora-experts"]


@pytest.mark.parametrize("name", TINY)
def test_a_4_bit_linear_layer_errs_as_much_as_nf4_says(registry: Registry, name: str) -> None:
    model, _ = registry.models[name](seed=0)
    held = quantization.load(model, registry.quantizations["qlora"], torch.float32)
    expected = nf4_rounding_error(registry)
    x = torch.randn(64, model.config.hidden_size, generator=torch.Generator().manual_seed(1))
    layer = "model.layers.0.mlp.up_proj"
    exact = model.get_submodule(layer)(x)
    with torch.no_grad():
        error = (held.get_submodule(layer)(x) - exact).norm() / exact.norm()
    assert float(error) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("name", WITH_EXPERTS)
def test_4_bit_experts_err_as_much_as_nf4_says(registry: Registry, name: str) -> None:
    model, _ = registry.models[name](seed=0)
    held = quantization.load(model, registry.quantizations["qlora"], torch.float32)
    for parameter in ("gate_up_proj", "down_proj"):
        exact = getattr(model.get_submodule("model.layers.1.mlp.experts"), parameter)
        close = getattr(held.get_submodule("model.layers.1.mlp.experts"), parameter)
        with torch.no_grad():
            error = float((close - exact).norm() / exact.norm())
        assert error == pytest.approx(nf4_rounding_error(registry), rel=0.2)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(("quantized", "bound"), [("qlora", 0.25), ("int8", 0.03), ("lora", 0.01)])
def test_log_probs_stay_close_to_the_16_bit_model(
    registry: Registry, name: str, quantized: str, bound: float
) -> None:
    # Mean over tokens of the total variation distance between next-token distributions. The models
    # have random weights, with no margin for the rounding to hide in.
    model, _ = registry.models[name](seed=0)
    held = quantization.load(model, registry.quantizations[quantized], torch.bfloat16)
    exact, close = logits(model).softmax(-1), logits(held).softmax(-1)
    distance = (exact - close).abs().sum(-1).mean() / 2
    assert 0 < float(distance) < bound


@pytest.mark.parametrize("name", WITH_EXPERTS)
def test_routed_experts_take_four_bits(registry: Registry, name: str) -> None:
    model, _ = registry.models[name](seed=0)
    held = quantization.load(model, registry.quantizations["qlora"], torch.bfloat16)
    half = stored_bytes(model, "mlp.experts.") / 2  # the model is in 32 bits
    assert half > 0
    assert stored_bytes(held, "mlp.experts.") == half / 4
    stock = quantization.load(model, Quantization(bits=4, quantize_experts=False), torch.bfloat16)
    assert stored_bytes(stock, "mlp.experts.") == half


@pytest.mark.parametrize("name", TINY)
def test_routers_embeddings_and_head_are_not_quantized(registry: Registry, name: str) -> None:
    model, _ = registry.models[name](seed=0)
    held = quantization.load(model, registry.quantizations["qlora"], torch.bfloat16)
    parameters = dict(held.named_parameters())
    kept = [n for n in parameters if "embed" in n or "lm_head" in n or n.endswith("gate.weight")]
    assert len(kept) == 2 + (2 if name in WITH_EXPERTS else 0)
    assert all(parameters[n].is_floating_point() for n in kept)


@pytest.mark.parametrize("name", TINY)
def test_norms_compute_in_float32_and_answer_in_16_bit(registry: Registry, name: str) -> None:
    model, _ = registry.models[name](seed=0)
    held = quantization.load(model, registry.quantizations["qlora"], torch.bfloat16)
    norms = [module for n, module in held.named_modules() if n.endswith("norm")]
    assert norms
    assert {norm.weight.dtype for norm in norms} == {torch.float32}
    hidden = torch.ones(1, 3, norms[-1].weight.numel(), dtype=torch.bfloat16)
    assert norms[-1](hidden).dtype == torch.bfloat16


@pytest.mark.parametrize("name", TINY)
def test_evaluating_on_cpu_does_not_change_the_weights(registry: Registry, name: str) -> None:
    # bitsandbytes repacks 4-bit weights for CPU inference and rounds their constants by it.
    model, _ = registry.models[name](seed=0)
    held = quantization.load(model, registry.quantizations["qlora"], torch.bfloat16)
    before = {key: value.clone() for key, value in held.state_dict().items()}
    logits(held)
    after = held.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", TINY)
def test_a_4_bit_model_reloads_bit_for_bit(registry: Registry, name: str, tmp_path: Path) -> None:
    from trl_deepseek.quantization import four_bit

    model, _ = registry.models[name](seed=0)
    held = quantization.load(model, registry.quantizations["qlora"], torch.bfloat16)
    four_bit.save(held, tmp_path)
    assert [path.suffix for path in tmp_path.glob("model*")] == [".safetensors"]
    again = quantization.load(str(tmp_path), registry.quantizations["qlora"], torch.bfloat16)
    assert torch.equal(logits(again), logits(held))
    assert stored_bytes(again) == stored_bytes(held)


def test_a_folder_and_a_model_in_memory_are_quantized_alike(
    registry: Registry, tmp_path: Path
) -> None:
    model, _ = registry.models["tiny-deepseek-v3"](seed=0)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    qlora = registry.quantizations["qlora"]
    from_folder = quantization.load(str(tmp_path), qlora, torch.bfloat16)
    in_memory = quantization.load(model, qlora, torch.bfloat16)
    assert torch.equal(logits(from_folder), logits(in_memory))


def test_stock_loading_is_left_as_it_was(registry: Registry) -> None:
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

    before = dict(AUTO_QUANTIZER_MAPPING)
    model, _ = registry.models["tiny-deepseek-v2"](seed=0)
    quantization.load(model, registry.quantizations["qlora"], torch.bfloat16)
    assert before == AUTO_QUANTIZER_MAPPING


def test_a_plugin_may_register_its_own() -> None:
    class Mine:
        @hookimpl
        def register_quantizations(self, register: Any) -> None:
            register("fp4", Quantization(bits=4, quant_type="fp4", double_quant=False))

    registry = load_registry([Mine()])
    config = quantization.bitsandbytes_config(registry.quantizations["fp4"], torch.float32)
    assert config is not None
    assert config.bnb_4bit_quant_type == "fp4"
    assert config.bnb_4bit_use_double_quant is False
    assert config.bnb_4bit_compute_dtype == torch.float32


def test_the_recipe_is_nf4_with_double_quantization_and_bf16_compute(registry: Registry) -> None:
    class Args:
        bf16 = True
        fp16 = False

    qlora = registry.quantizations["qlora"]
    config = quantization.bitsandbytes_config(qlora, quantization.compute_dtype(qlora, Args()))
    assert config is not None
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_use_double_quant is True
    assert config.bnb_4bit_compute_dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("bf16", "fp16", "dtype"),
    [(True, False, torch.bfloat16), (False, True, torch.float16), (False, False, torch.float32)],
)
def test_compute_follows_the_precision_of_the_run(
    bf16: bool, fp16: bool, dtype: torch.dtype
) -> None:
    class Args:
        pass

    args = Args()
    args.bf16, args.fp16 = bf16, fp16  # type: ignore[attr-defined]
    assert quantization.compute_dtype(Quantization(bits=4), args) == dtype
    named = Quantization(bits=4, compute_dtype="float16")
    assert quantization.compute_dtype(named, args) == torch.float16


def test_lora_on_4_bit_experts_is_refused_with_both_ways_out(registry: Registry) -> None:
    class Args:
        quantization = "qlora"
        lora_experts = True

    with pytest.raises(ConfigError) as caught:
        quantization.choose(Args(), registry)
    assert str(caught.value) == (
        "lora_experts: quantization 'qlora' holds the routed experts in 4 bits, where peft finds "
        "no parameter to adapt\n"
        "  either adapt them in 16 bit: quantization 'qlora-lora-experts' or 'lora'\n"
        "  or keep them in 4 bits and leave lora_experts out"
    )


def test_an_unknown_name_is_refused(registry: Registry) -> None:
    class Args:
        quantization = "qlroa"

    with pytest.raises(UnknownName, match="did you mean 'qlora'"):
        quantization.choose(Args(), registry)


def test_a_contradictory_registration_names_the_plugin() -> None:
    class Broken:
        @hookimpl
        def register_quantizations(self, register: Any) -> None:
            register("both", Quantization(bits=4, lora_experts=True))

    with pytest.raises(PluginError, match=r"plugin 'Broken'.*4-bit experts cannot carry LoRA"):
        load_registry([Broken()])


def test_a_checkpoint_in_another_format_is_refused(registry: Registry, tmp_path: Path) -> None:
    config = registry.models["tiny-deepseek-v3"](seed=0)[0].config
    config.quantization_config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"is stored in fp8, .*\n  convert it to bfloat16 first"):
        quantization.load(str(tmp_path), registry.quantizations["qlora"], torch.bfloat16)


def test_a_quantized_model_in_memory_is_refused(registry: Registry) -> None:
    model, _ = registry.models["tiny-deepseek-llm"](seed=0)
    qlora = registry.quantizations["qlora"]
    held = quantization.load(model, qlora, torch.float32)
    with pytest.raises(ConfigError, match="the model given is quantized already"):
        quantization.load(held, qlora, torch.float32)
