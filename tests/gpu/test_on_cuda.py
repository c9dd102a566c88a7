"""What only a GPU can show: its kernels, its precisions, its optimizers, its random states."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import trl_deepseek
from trl_deepseek import load_registry, quantization
from trl_deepseek.lm_head import streaming_softmax

pytestmark = pytest.mark.gpu

REGISTRY = load_registry()
KINDS = ("SFT", "DPO", "KTO", "Reward", "GRPO")
TINY = ("tiny-deepseek-llm", "tiny-deepseek-v2", "tiny-deepseek-v3")
ROWS: dict[str, Any] = {"SFT": "demonstrations", "GRPO": "prompts"}


def low_ids(completions: list[Any], completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [sum(token < 140 for token in ids) / max(1, len(ids)) for ids in completion_ids]


def trainer(kind: str, model: Any, folder: Path, device: str, **options: Any) -> Any:
    config: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "max_steps": 2,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        **options,
    }
    if kind == "GRPO":
        config |= {"num_generations": 8, "max_completion_length": 6, "save_completions": False}
    rows = REGISTRY.datasets["arithmetic"](kind=ROWS.get(kind, "preferences"), size=64)
    arguments: dict[str, Any] = {
        "args": getattr(trl_deepseek, f"{kind}Config")(**config),
        "train_dataset": rows,
    }
    if kind == "GRPO":
        arguments["reward_funcs"] = low_ids
    return getattr(trl_deepseek, f"{kind}Trainer")(model, **arguments)


def trained(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def far(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("trains_head", [False, True], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_log_probs_and_gradients_are_those_of_full_logits(
    device: str, dtype: torch.dtype, trains_head: bool
) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(300, 256, device=device, dtype=dtype).requires_grad_()
    head = (torch.randn(20_000, 256, device=device) / 16).to(dtype).requires_grad_(trains_head)
    target = torch.randint(20_000, (300,), device=device)
    factor = torch.rand(300, device=device)
    found = streaming_softmax.score(hidden, head, None, target).logps
    (found * factor).sum().backward()
    exact_hidden = hidden.detach().double().requires_grad_()
    exact_head = head.detach().double().requires_grad_()
    logits = exact_hidden @ exact_head.t()
    exact = logits.log_softmax(-1).gather(1, target[:, None])[:, 0]
    (exact * factor.double()).sum().backward()
    # one rounding of a logit to the dtype, and of a gradient to it
    bound = {torch.bfloat16: 2e-2, torch.float16: 5e-3, torch.float32: 1e-3}[dtype]
    assert far(found.detach(), exact.detach()) < bound
    assert hidden.grad is not None
    assert exact_hidden.grad is not None
    assert far(hidden.grad, exact_hidden.grad) < bound
    if trains_head:
        assert head.grad is not None
        assert exact_head.grad is not None
        assert far(head.grad, exact_head.grad) < bound


@pytest.mark.parametrize("name", TINY)
def test_a_4_bit_model_reloads_bit_for_bit_and_is_near_the_16_bit_one(
    device: str, name: str, tmp_path: Path
) -> None:
    from trl_deepseek.quantization import four_bit

    model, _ = REGISTRY.models[name](seed=0)
    held = quantization.load(model, REGISTRY.quantizations["qlora"], torch.bfloat16)
    assert held.device.type == device
    four_bit.save(held, tmp_path)
    again = quantization.load(str(tmp_path), REGISTRY.quantizations["qlora"], torch.bfloat16)
    ids = torch.arange(40, device=device)[None] % 200
    with torch.no_grad():
        one, other = held.eval()(ids).logits, again.eval()(ids).logits
        exact = model.to(device, torch.bfloat16).eval()(ids).logits
    assert torch.equal(one, other)
    assert far(one, exact) < 0.5  # NF4 errs by a tenth on each weight of an untrained model


@pytest.mark.parametrize("model", [TINY[0], TINY[-1]])
@pytest.mark.parametrize("kind", KINDS)
def test_every_trainer_trains_adapters_on_a_4_bit_base(
    device: str, kind: str, model: str, tmp_path: Path
) -> None:
    built = trainer(kind, model, tmp_path, device, quantization="qlora")
    before = trained(built.model)
    built.train()
    assert all(math.isfinite(entry.get("loss", 0.0)) for entry in built.state.log_history)
    after = trained(built.model)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(torch.isfinite(value).all() for value in after.values())
    if device == "cuda":
        assert built.args.optim == "paged_adamw_8bit"
        assert built.args.bf16


@pytest.mark.parametrize("quantized", ["qlora", "lora"])
@pytest.mark.parametrize("kind", ["SFT", "DPO", "GRPO"])
def test_adapters_train_in_float16(device: str, kind: str, quantized: str, tmp_path: Path) -> None:
    if device == "cpu":
        pytest.skip("the loss scaler of float16 needs CUDA")
    built = trainer(
        kind, "tiny-deepseek-llm", tmp_path, device, quantization=quantized, fp16=True, max_steps=4
    )
    before = trained(built.model)
    built.train()
    after = trained(built.model)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("kind", ["SFT", "GRPO"])
def test_a_resumed_run_draws_on_as_the_undisturbed_one(
    device: str, kind: str, tmp_path: Path
) -> None:
    """Dropout and sampling use the device's own random state, which checkpoints must hold."""
    options: dict[str, Any] = {"quantization": "lora", "max_steps": 4, "save_steps": 2}
    options |= {"save_strategy": "steps"}
    whole = trainer(kind, "tiny-deepseek-llm", tmp_path, device, **options)
    before = trained(whole.model)
    whole.train()
    torch.manual_seed(12345)
    again = trainer(kind, "tiny-deepseek-llm", tmp_path, device, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))

    def moved(model: Any) -> torch.Tensor:
        after = trained(model)
        return torch.cat([(after[name] - value).flatten() for name, value in before.items()])

    # Kernels add in no fixed order, which leaves a little; other draws would move half of it.
    assert far(moved(again.model), moved(whole.model)) < 0.1


def test_dpo_by_name_is_trls(device: str, tmp_path: Path) -> None:
    losses = []
    for loss in ("dpo", "sigmoid"):  # ours by name, and TRL's own
        run = trainer("DPO", "tiny-deepseek-llm", tmp_path, device, loss_type=[loss], max_steps=3)
        run.train()
        losses.append([entry["loss"] for entry in run.state.log_history if "loss" in entry])
    assert losses[0][0] == pytest.approx(math.log(2), rel=1e-2)
    assert losses[0] == pytest.approx(losses[1], rel=2e-2)


def test_noise_is_drawn_where_the_model_is(device: str, tmp_path: Path) -> None:
    losses = []
    for noise in (None, "neftune"):
        options = {"noise": noise, "noise_alpha": noise and 20.0}
        run = trainer("SFT", "tiny-deepseek-llm", tmp_path, device, **options)
        run.train()
        losses.append(run.state.log_history[0]["loss"])
    assert math.isfinite(losses[1])
    assert losses[1] != losses[0]
