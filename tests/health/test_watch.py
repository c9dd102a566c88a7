"""What the watch looks at, one thing at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from trl_deepseek import SFTConfig, SFTTrainer, health, load_registry
from trl_deepseek.errors import NotFinite

REGISTRY = load_registry()


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_among_many_is_found(dtype: torch.dtype, value: float) -> None:
    if dtype is torch.float8_e4m3fn:
        value = math.nan  # it has no infinity
    whole, wrong = torch.zeros(300, 70).to(dtype), torch.zeros(300, 70)
    wrong[123, 45] = value
    tensors = [
        ("whole", whole),
        ("wrong", wrong.to(dtype)),
        ("turned", wrong.to(dtype).T),
        ("packed", torch.full((9,), 255, dtype=torch.uint8)),
        ("empty", torch.zeros(0)),
    ]
    assert health.not_finite(tensors) == ["wrong", "turned"]


def test_largest_finite_values_are_finite() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        largest = torch.finfo(dtype).max
        tensor = torch.tensor([largest, -largest], dtype=dtype)
        assert health.not_finite([("largest", tensor)]) == []


def watch(tmp_path: Path) -> health.Watch:
    return health.Watch(["nll"], str(tmp_path), None, 0, lambda: 6, lambda: "none")


def test_an_overflow_that_the_scaler_skips_is_no_fault(tmp_path: Path) -> None:
    """At a scale of 1 it is not the scale that overflows."""
    model = torch.nn.Linear(2, 2)
    model.weight.grad, model.bias.grad = torch.full((2, 2), math.inf), torch.zeros(2)
    scaler = torch.amp.GradScaler("cpu", init_scale=65536.0)
    watch(tmp_path).check_gradient(torch.tensor(math.inf), scaler, model)
    for given in (torch.amp.GradScaler("cpu", init_scale=1.0), None):
        with pytest.raises(NotFinite, match=r"step 7: the gradient of loss 'nll'.*inf\): weight"):
            watch(tmp_path).check_gradient(torch.tensor(math.inf), given, model)


def test_the_rows_that_a_loss_names_are_shown_and_all_are_kept(tmp_path: Path) -> None:
    tokenizer = REGISTRY.models["tiny-deepseek-llm"]()[1]
    texts = ["first row", "second row", "third row"]
    batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
    looking = health.Watch(
        ["ipo"], str(tmp_path), tokenizer, 0, lambda: 0, lambda: "the last checkpoint is out/x"
    )
    looking.saw(dict(batch))
    with pytest.raises(NotFinite) as stopped, looking.around_step():
        raise NotFinite("loss 'ipo' is not finite: [1.0, nan, 1.0]", [1])
    lines = str(stopped.value).splitlines()
    assert lines[0] == "step 1: loss 'ipo' is not finite: [1.0, nan, 1.0]"
    assert lines[1] == "  row: 'second row'"
    assert lines[3] == "  the step was not made; the last checkpoint is out/x"
    kept = torch.load(tmp_path / "not_finite" / "step-1-process-0.pt", weights_only=True)
    assert kept["texts"] == texts
    assert torch.equal(kept["batches"][0]["input_ids"], batch["input_ids"])


def build(settings: dict[str, Any], texts: Dataset, **options: Any) -> SFTTrainer:
    model, tokenizer = REGISTRY.models["tiny-deepseek-llm"]()
    config = SFTConfig(**{**settings, **options})
    return SFTTrainer(model, config, train_dataset=texts, processing_class=tokenizer)


def test_weights_that_the_last_step_lost_are_not_saved(
    settings: dict[str, Any], texts: Dataset, lost: Callable[[Path], list[str]]
) -> None:
    """The gradient is finite, and the step so large that the weights are not."""
    trainer = build(settings, texts, learning_rate=3e38, max_grad_norm=0, optim="sgd", max_steps=1)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.mul_(3)  # gradients above 1
    with pytest.raises(NotFinite, match="the weights are not finite after step 1: "):
        trainer.train()
    out = Path(settings["output_dir"])
    assert not list(out.rglob("*.safetensors"))
    with pytest.raises(NotFinite, match="nothing of it has been saved"):
        trainer.save_model(str(out))
    assert lost(out) == []


def test_all_rows_of_an_accumulated_step_are_kept(settings: dict[str, Any], texts: Dataset) -> None:
    trainer = build(settings, texts, gradient_accumulation_steps=2)
    weight = trainer.model.lm_head.weight
    weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(NotFinite, match="step 1: the gradient of loss 'nll' is not finite"):
        trainer.train()
    file = Path(settings["output_dir"]) / "not_finite" / "step-1-process-0.pt"
    kept = torch.load(file, weights_only=True)
    assert [len(batch["input_ids"]) for batch in kept["batches"]] == [2, 2]
    assert len(kept["texts"]) == 4


def test_the_log_has_no_zero_for_nan_in_evaluation(
    settings: dict[str, Any], texts: Dataset
) -> None:
    trainer = build(settings, texts)
    with torch.no_grad():
        trainer.model.lm_head.weight[0, 0] = math.nan
    assert math.isnan(trainer.evaluate(texts)["eval_loss"])
