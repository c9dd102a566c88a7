"""What runs are compared by, with the options that make them greedy and the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from trl_deepseek.rollouts.history import read

PLAIN = """
from trl_deepseek import hookimpl

@hookimpl
def register_advantages(register):
    register("plain", plain)

def plain(scores, weights):
    return scores[..., 0]
"""


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
