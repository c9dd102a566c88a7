"""Small runs of every trainer, and what a kill at any instant would leave of them on the disk."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import trl_deepseek
from trl_deepseek import load_registry

REGISTRY = load_registry()
KINDS = ("sft", "dpo", "kto", "reward", "grpo")
ROWS = {"sft": "demonstrations", "grpo": "prompts"}
OPTIONS: dict[str, dict[str, Any]] = {
    # two batches of one window per step, four steps per window: checkpoint 2 lies in its middle
    "grpo": {
        "num_generations": 2,
        "max_completion_length": 4,
        "gradient_accumulation_steps": 2,
        "steps_per_generation": 6,
        "num_iterations": 1,
        "beta": 0.0,
        "temperature": 1.0,
    },
    "kto": {"max_length": 64},
    "dpo": {"max_length": 64},
}
CLASSES = {"sft": "SFT", "dpo": "DPO", "kto": "KTO", "reward": "Reward", "grpo": "GRPO"}


def by_length(completions: list[Any], **_: Any) -> list[float]:
    return [float(len(completion[0]["content"]) % 7) for completion in completions]


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    """Builds a trainer for four steps that logs every third and saves every second."""

    def trainer(
        kind: str,
        folder: Path,
        *,
        given: dict[str, Any] | None = None,
        held_out: bool = False,
        **options: Any,
    ) -> Any:
        settings: dict[str, Any] = {
            "output_dir": str(folder),
            "per_device_train_batch_size": 2,
            "max_steps": 4,
            "learning_rate": 1e-3,
            "logging_steps": 3,
            "save_strategy": "steps",
            "save_steps": 2,
            "report_to": "none",
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_tqdm": True,
            "chat_template": "role-tokens",
            **OPTIONS.get(kind, {}),
            **options,
        }
        rows = REGISTRY.datasets["arithmetic"](kind=ROWS.get(kind, "preferences"), size=32)
        if kind == "grpo":
            given = {"reward_funcs": [by_length], **(given or {})}
        if held_out:
            given = {**(given or {}), "eval_dataset": rows}
        name = CLASSES[kind]
        config = getattr(trl_deepseek, f"{name}Config")(**settings)
        return getattr(trl_deepseek, f"{name}Trainer")(
            model="tiny-deepseek-llm", args=config, train_dataset=rows, **(given or {})
        )

    return trainer


_WATCHED: list[Callable[[str, tuple[Any, ...]], None]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    for watch in list(_WATCHED):
        watch(event, arguments)


sys.addaudithook(_hear)  # cannot be taken back; it costs nothing while nobody watches

WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


@pytest.fixture(scope="session")
def instants() -> Callable[..., Any]:
    """Watch a folder, and copy it before each change that is made in it.

    A copy is what a kill at that instant leaves.
    """

    @contextmanager
    def watching(folder: Path, copies: Path) -> Iterator[list[Path]]:
        taken: list[Path] = []

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            writes = event in WRITES or (event == "open" and "w" in str(arguments[1]))
            if not writes or not str(arguments[0]).startswith(str(folder)):
                return
            _WATCHED.remove(watch)
            try:
                taken.append(copies / str(len(taken)))
                shutil.copytree(folder, taken[-1])
            finally:
                _WATCHED.append(watch)

        _WATCHED.append(watch)
        try:
            yield taken
        finally:
            _WATCHED.remove(watch)

    return watching
