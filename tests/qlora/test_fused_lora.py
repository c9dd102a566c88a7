"""LoRA that adds as it multiplies is peft's LoRA, and peft's own wherever it is more than plain."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import nn

from trl_deepseek import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer, load_registry
from trl_deepseek.adapters.fused import FusedLinear, fuse


class Two(nn.Module):
    """Two linear layers, the second with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 10, bias=False)
        self.second = nn.Linear(10, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.nn.functional.silu(self.first(x)))


def adapted(dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    torch.manual_seed(0)
    given = {"r": 3, "lora_alpha": 7, "target_modules": ["first", "second"], **options}
    model = get_peft_model(Two(), LoraConfig(**given))
    for parameter in model.parameters():  # B begins at zero
        nn.init.normal_(parameter)
    return model.to(dtype)


def rows(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(2, 5, 6, dtype=dtype, generator=torch.Generator().manual_seed(1))


def values_and_gradients(model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    found = model(x)
    found.float().square().sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert trained
    return [found.detach(), x.grad, *(p.grad for p in trained)]


def test_a_layer_is_the_papers_formula() -> None:
    """h = W x + alpha / r B A x, arXiv:2106.09685, equation 3."""
    model = adapted()
    fuse(model)
    layer = model.base_model.model.first
    assert type(layer) is FusedLinear
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    whole = layer.base_layer.weight + 7 / 3 * b @ a
    torch.testing.assert_close(layer(rows()), rows() @ whole.T)
    torch.testing.assert_close(layer(rows()[0, 0]), rows()[0, 0] @ whole.T)


ROUNDING = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 0.02}
"""Of the norm of what is compared."""


def assert_near(found: torch.Tensor, exact: torch.Tensor, rounding: float) -> None:
    assert float((found.double() - exact).norm() / exact.norm()) <= rounding


@pytest.mark.parametrize("dtype", list(ROUNDING))
def test_values_and_gradients_are_pefts_before_it_rounds(dtype: torch.dtype) -> None:
    peft, ours = adapted(dtype).double(), adapted(dtype)
    fuse(ours)
    expected = values_and_gradients(peft, rows(dtype).double())
    for found, exact in zip(values_and_gradients(ours, rows(dtype)), expected, strict=True):
        assert found.dtype == dtype
        assert_near(found, exact, ROUNDING[dtype])


def test_under_autocast_values_are_in_the_type_of_pefts_and_as_near() -> None:
    peft, ours = adapted(torch.float32), adapted(torch.float32)
    fuse(ours)
    x = rows(torch.float32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, other = ours(x), peft(x)
    assert found.dtype == other.dtype == torch.bfloat16
    exact = peft.double()(x.double()).detach()
    assert_near(other, exact, ROUNDING[torch.bfloat16])
    assert_near(found, exact, ROUNDING[torch.bfloat16])


def switched_off(model: Any) -> Any:
    model.base_model.disable_adapter_layers()
    return model


def merged(model: Any) -> Any:
    model.merge_adapter()
    return model


def two_adapters(model: Any) -> Any:
    both = ["first", "second"]  # a layer with one of them alone is plain
    model.add_adapter("other", LoraConfig(r=2, target_modules=both, init_lora_weights=False))
    model.base_model.set_adapter(["default", "other"])
    return model


def hooked(model: Any) -> Any:
    """As DeepSpeed ZeRO-3, which puts a weight together where its layer is called."""
    for layer in (model.base_model.model.first, model.base_model.model.second):
        layer.lora_B["default"].register_forward_pre_hook(lambda _, x: (2 * x[0],))
    return model


def same(model: Any) -> Any:
    return model


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (switched_off, {}),
        (merged, {}),
        (two_adapters, {}),
        (hooked, {}),
        (same, {"use_dora": True}),
        (same, {"lora_bias": True}),
        (same, {"target_modules": ["second"], "lora_bias": True}),
    ],
)
def test_more_than_plain_lora_is_pefts_to_the_last_bit(
    change: Callable[[Any], Any], options: dict[str, Any]
) -> None:
    peft = change(adapted(**options))
    ours = copy.deepcopy(peft)
    fuse(ours)
    assert any(type(module) is FusedLinear for module in ours.modules())
    assert torch.equal(ours(rows()), peft(rows()))


def test_dropout_drops_what_peft_drops() -> None:
    peft, ours = adapted(lora_dropout=0.5), adapted(lora_dropout=0.5)
    fuse(ours)
    for model in (peft, ours):
        model.train()
    torch.manual_seed(3)
    expected = peft(rows())
    torch.manual_seed(3)
    torch.testing.assert_close(ours(rows()), expected)
    assert not torch.allclose(ours(rows()), expected)  # it does drop


def test_merging_saving_and_copying_are_pefts(tmp_path: Path) -> None:
    peft, ours = adapted(), adapted()
    fuse(ours)
    torch.testing.assert_close(copy.deepcopy(ours)(rows()), peft(rows()))
    assert {n: p.shape for n, p in ours.state_dict().items()} == {
        n: p.shape for n, p in peft.state_dict().items()
    }
    whole, expected = (each.merge_and_unload() for each in (ours, peft))
    for name, parameter in expected.named_parameters():
        assert torch.equal(whole.get_parameter(name), parameter)


def trainer_of(folder: Path, model: Any, sharing: Any) -> Any:
    rows = Dataset.from_dict({"prompt": ["1+1="] * 2, "completion": ["2"] * 2})
    config = SFTConfig(
        output_dir=str(folder), prefix_sharing=sharing, report_to="none", use_cpu=True, max_steps=1
    )
    tokenizer = load_registry().models["tiny-deepseek-llm"]()[1]
    return SFTTrainer(model=model, args=config, train_dataset=rows, processing_class=tokenizer)


def test_a_trainer_fuses_what_it_trains_but_with_sharing_off(tmp_path: Path) -> None:
    model = load_registry().models["tiny-deepseek-llm"]()[0]
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    kinds = {"auto": FusedLinear, "off": Linear, "on": FusedLinear}
    for sharing, kind in kinds.items():  # in turn on one model
        held = trainer_of(tmp_path / sharing, model, sharing).model
        layers = [each for each in held.modules() if isinstance(each, Linear)]
        assert layers
        assert {type(each) for each in layers} == {kind}


def test_with_sharing_off_a_reference_that_another_trainer_had_is_as_trl_holds_it(
    tmp_path: Path,
) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj"])
    reference = get_peft_model(load_registry().models["tiny-deepseek-llm"]()[0], lora)
    before = trainer_of(tmp_path / "sft", reference, "auto")
    model, tokenizer = load_registry().models["tiny-deepseek-llm"]()
    rows = {"prompt": ["1+1="] * 2, "chosen": ["2"] * 2, "rejected": ["3"] * 2}
    args = DPOConfig(
        output_dir=str(tmp_path / "dpo"), prefix_sharing="off", report_to="none", use_cpu=True,
        max_steps=1, bf16=False,
    )  # fmt: skip
    off = DPOTrainer(
        model=model, ref_model=reference, args=args, train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer,
    )  # fmt: skip
    assert not any(type(each) is FusedLinear for each in off.ref_model.modules())
    before._fuse_adapters()  # as another trainer of the same model does
    off.train()
    assert not any(type(each) is FusedLinear for each in off.ref_model.modules())
