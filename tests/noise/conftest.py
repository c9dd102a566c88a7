"""Small runs of every trainer, watched at the backbone, where every pass can be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

import trl_deepseek
from trl_deepseek import load_registry
from trl_deepseek.types import DatasetKind

TRAINERS: dict[str, tuple[str, str, DatasetKind]] = {
    "sft": ("SFTTrainer", "SFTConfig", "demonstrations"),
    "dpo": ("DPOTrainer", "DPOConfig", "preferences"),
    "kto": ("KTOTrainer", "KTOConfig", "preferences"),
    "grpo": ("GRPOTrainer", "GRPOConfig", "prompts"),
    "reward": ("RewardTrainer", "RewardConfig", "preferences"),
}


@dataclass
class Watch:
    """Hidden states of every pass, with whether it recorded gradients; texts of the rollouts."""

    passes: list[tuple[bool, torch.Tensor]] = field(default_factory=list)
    completions: list[str] = field(default_factory=list)
    firings: int | None = None
    trainer: Any = None

    def with_gradients(self) -> list[torch.Tensor]:
        return [hidden for recorded, hidden in self.passes if recorded]

    def without_gradients(self) -> list[torch.Tensor]:
        return [hidden for recorded, hidden in self.passes if not recorded]

    def reward(self, completions: list[Any], **columns: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        self.completions += texts
        return [float(len(text) % 7) for text in texts]


@contextmanager
def watching(watch: Watch, model: Any) -> Iterator[None]:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model

    def see(module: Any, args: Any, output: Any) -> None:
        watch.passes.append((torch.is_grad_enabled(), output.last_hidden_state.detach().clone()))

    hook = base.base_model.register_forward_hook(see)
    try:
        yield
    finally:
        hook.remove()


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Watch]:
    """A trainer whose learning rate is zero, so that runs differ in nothing but their noise."""

    def make(
        kind: str,
        *,
        module: Any = trl_deepseek,
        model: str = "tiny-deepseek-llm",
        lora: float | None = 0.0,
        rows: int = 4,
        dataset: Any = None,
        trainer_options: dict[str, Any] | None = None,
        **options: Any,
    ) -> Watch:
        trainer_class, config_class, data_kind = TRAINERS[kind]
        registry = load_registry()
        data = dataset or registry.datasets["arithmetic"](kind=data_kind, size=rows)
        if kind == "grpo":
            options = {"max_completion_length": 4, "num_generations": 2, **options}
            options = {"generation_kwargs": {"do_sample": False}, **options}
        args = getattr(module, config_class)(
            **{
                "output_dir": str(tmp_path),
                "learning_rate": 0.0,
                "max_steps": 2,
                "per_device_train_batch_size": 2,
                "save_strategy": "no",
                "report_to": "none",
                "logging_steps": 1,
                "use_cpu": True,
                "bf16": False,
                "disable_tqdm": True,
                **options,
            }
        )
        built, tokenizer = registry.models[model](seed=0)
        more: dict[str, Any] = dict(trainer_options or {})
        if lora is not None:
            more["peft_config"] = LoraConfig(
                r=4, lora_dropout=lora, target_modules=["o_proj"], init_lora_weights=False
            )
        trl_deepseek.chat.install(tokenizer, "deepseek-v3")
        watch = Watch()
        if kind == "grpo":
            more["reward_funcs"] = watch.reward
        if kind == "reward":  # which makes a reward model of the one that it is named
            built = model
        watch.trainer = getattr(module, trainer_class)(
            model=built, args=args, train_dataset=data, processing_class=tokenizer, **more
        )
        return watch

    return make


@pytest.fixture
def train(build: Callable[..., Watch]) -> Callable[..., Watch]:
    """Train for two steps and watch."""

    def run(kind: str, **options: Any) -> Watch:
        watch = build(kind, **options)
        with watching(watch, watch.trainer.model):
            watch.trainer.train()
        noise = getattr(watch.trainer, "embedding_noise", None)
        watch.firings = noise.firings if noise is not None else None
        return watch

    return run
