"""A kill at any instant of a save leaves whole checkpoints, from which a run goes on exactly."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file

from trl_deepseek import checkpoints

TIMES = ("runtime", "per_second", "step_time")
KINDS = ("sft", "dpo", "kto", "reward", "grpo")
FEW = [pytest.param(k, marks=[pytest.mark.matrix] * (k in ("kto", "reward"))) for k in KINDS]


def left_by(folder: Path) -> dict[str, Any]:
    """All that a run leaves, but for times: the last checkpoint, tensor by tensor, and the log."""
    last = checkpoints.newest(folder).folder
    assert last is not None
    found: dict[str, Any] = {}
    for file in sorted(Path(last).glob("*")):
        if file.suffix == ".safetensors":
            found[file.name] = load_file(file)
        elif file.suffix in (".pt", ".pth"):
            found[file.name] = torch.load(file, weights_only=False)
    state = json.loads(Path(last, "trainer_state.json").read_text())
    found["log"] = [
        {key: value for key, value in line.items() if not any(word in key for word in TIMES)}
        for line in state["log_history"]
    ]
    found["step"] = state["global_step"]
    return found


def same(a: Any, b: Any) -> bool:
    """Bitwise, also where a number is not one."""
    if isinstance(a, torch.Tensor):
        return (
            isinstance(b, torch.Tensor)
            and a.dtype == b.dtype
            and torch.equal(
                a.contiguous().view(torch.uint8) if a.dim() else a,
                b.contiguous().view(torch.uint8) if b.dim() else b,
            )
        )
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(repr(a) == repr(b))


@pytest.mark.parametrize("kind", FEW)
def test_a_kill_at_any_instant_of_a_save_leaves_a_whole_checkpoint_to_go_on_from_exactly(
    kind: str,
    build: Callable[..., Any],
    instants: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tmp_path / "out"
    trainer = build(kind, folder, save_total_limit=1)
    with instants(folder, tmp_path / "killed") as taken:
        result = trainer.train()
    undisturbed = left_by(folder)
    named = [sorted(path.name for path in copy.glob("*checkpoint-*")) for copy in taken]
    # before the first save there is none; then 2 alone, for an instant both, and then 4 alone
    assert [names for i, names in enumerate(named) if i == 0 or names != named[i - 1]] == [
        [], ["checkpoint-2"], ["checkpoint-2", "checkpoint-4"], ["checkpoint-4"],
    ]  # fmt: skip
    assert len(taken) > 20
    for copy, names in zip(taken, named, strict=True):
        found = checkpoints.newest(copy)
        assert found.torn == ()
        assert (None if found.folder is None else Path(found.folder).name) == (
            names[-1] if names else None
        )
    # the last instant at which the second save had not been given its name
    killed = taken[max(i for i, names in enumerate(named) if names == ["checkpoint-2"])]
    assert (killed / "_saving" / "checkpoint-4" / "manifest.json").is_file()
    shutil.rmtree(folder)
    killed.rename(folder)
    with caplog.at_level(logging.WARNING, "trl_deepseek"):
        resumed = build(kind, folder, save_total_limit=1).train(resume_from_checkpoint=True)
    assert "removed what a save that was cut short had left: checkpoint-4" in caplog.text
    again = left_by(folder)
    assert same(again, undisturbed), [
        key for key in again if not same(again[key], undisturbed[key])
    ]
    assert resumed.training_loss == result.training_loss
    assert not (folder / "_saving").exists()


@pytest.mark.parametrize("kind", FEW)
def test_two_runs_of_one_config_are_bitwise_equal(
    kind: str, build: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("a", "b"):
        build(kind, tmp_path / name, max_steps=2).train()
    assert same(left_by(tmp_path / "a"), left_by(tmp_path / "b"))


LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.2}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "noise": ("sft", {"noise": "neftune"}),
    "packing": ("sft", {"packing": True, "max_length": 64}),
    "accumulation": ("sft", {"gradient_accumulation_steps": 3}),
    "LoRA and dropout": ("sft", {"lora": LORA}),
    "QLoRA": ("sft", {"quantization": "qlora"}),
    "orpo": ("dpo", {"loss_type": ["orpo"]}),
    "a reference that moves": (
        "dpo",
        {"sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 0.5},
    ),
    "several iterations": ("grpo", {"num_iterations": 2, "steps_per_generation": 2}),
    "no window": ("grpo", {"gradient_accumulation_steps": 1, "steps_per_generation": 1}),
    "a long window": ("grpo", {"gradient_accumulation_steps": 1, "steps_per_generation": 8}),
}


@pytest.mark.matrix
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_run_that_goes_on_from_any_step_is_the_undisturbed_one(
    variant: str, step: int, build: Callable[..., Any], tmp_path: Path
) -> None:
    kind, options = VARIANTS[variant]
    options = {"save_steps": 1, **options}
    given = {"peft_config": LoraConfig(**options.pop("lora"))} if "lora" in options else None
    build(kind, tmp_path, given=given, **options).train()
    undisturbed = left_by(tmp_path)
    for later in range(step + 1, 5):
        shutil.rmtree(tmp_path / f"checkpoint-{later}")
    build(kind, tmp_path, given=given, **options).train(resume_from_checkpoint=True)
    again = left_by(tmp_path)
    assert [key for key in undisturbed if not same(again.get(key), undisturbed[key])] == []
