"""GRPO runs of three steps: how they are built, made greedy, and what they are compared by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from trl_deepseek import GRPOConfig, GRPOTrainer
from trl_deepseek.rollouts.history import read

QUESTIONS = ("2 a24 b12 c23 d23 e15", "3 a12 b45 c13 d23 e35", "5 a15 b12 c34 d25 e14", "Hello?")

PLAIN = """
from trl_deepseek import hookimpl

@hookimpl
def register_advantages(register):
    register("plain", plain)

def plain(scores, weights):
    return scores[..., 0]
"""


def never(completions: list[Any], **_: Any) -> list[float]:
    """Against whatever is said, so that the greedy answer to a prompt changes."""
    return [-1.0 - place % 4 for place in range(len(completions))]


def trainer(
    folder: Path, model: Any = "tiny-deepseek-llm", reward: Any = never, **given: Any
) -> GRPOTrainer:
    """For three steps of a large learning rate, with vLLM unless ``use_vllm`` is False."""
    of_trainer = {name: given.pop(name) for name in ("peft_config",) if name in given}
    options: dict[str, Any] = {
        "use_vllm": True,
        "max_completion_length": 8,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_steps": 3,
        "learning_rate": 3e-3,
        "adam_epsilon": 1e-4,  # which does not make steps of gradients that are but rounding
        "beta": 0.0,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        **given,
    }
    if options["use_vllm"] and "vllm_mode" not in options:
        options.setdefault("vllm_max_model_length", 128)
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in QUESTIONS]
    return GRPOTrainer(
        model,
        reward_funcs=reward,
        args=GRPOConfig(output_dir=str(folder), **options),
        train_dataset=Dataset.from_list(rows * 4),
        **of_trainer,
    )


def greedy(folder: Path) -> dict[str, Any]:
    """Options of a run that samples greedily and learns from it all the same."""
    (folder / "plain.py").write_text(PLAIN)
    return {
        "top_k": 1,
        "vllm_importance_sampling_correction": False,
        "advantage": "plain",  # others add up to 0 where all completions of a prompt are the same
        "plugins": [str(folder / "plain.py")],
    }


def by_length(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(completion[0]["content"]) % 5) for completion in completions]


def saved(folder: Path) -> list[tuple[int, Any, list[int], dict[str, Any]]]:
    return [(row.step, row.prompt, row.completion_ids, dict(row.scores)) for row in read(folder)]


def gaps(trainer: Any) -> list[float]:
    """What the proof found after each sync."""
    return [row["sampling/gap_after_sync"] for row in trainer.state.log_history if "loss" in row]


def weights_of(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
