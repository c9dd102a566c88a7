"""The examples of tasks and tools run from end to end, and their demonstrations are right."""

from __future__ import annotations

import argparse
import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest

from trl_deepseek import load_registry

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_demonstration_of_countdown_is_right() -> None:
    countdown, registry = example("countdown"), load_registry()
    rows = registry.datasets[countdown.TASK](size=30, **countdown.PUZZLES)
    for row in rows:
        shown = countdown.demonstration(row, random.Random(0))["completion"]
        assert registry.rewards["reasoning_gym"](completion=shown, entry=row["entry"]) == 1.0


@pytest.mark.matrix
@pytest.mark.transformers("5.15")
def test_two_tools_are_called_over_several_turns(tmp_path: Path) -> None:
    options = argparse.Namespace(
        model_name_or_path="tiny-deepseek-llm",
        output_dir=str(tmp_path),
        seed=0,
        rows=64,
        sft_steps=2,
        grpo_steps=1,
        grpo_batch=4,
    )
    (step,) = example("tools").main(options)
    assert {"reward", "tools/call_frequency", "tools/lookup/errors", "tools/malformed"} <= {*step}


@pytest.mark.matrix
def test_countdown_trains_without_a_reward_being_named(tmp_path: Path) -> None:
    options = argparse.Namespace(
        model_name_or_path="tiny-deepseek-llm",
        output_dir=str(tmp_path),
        seed=0,
        puzzles=64,
        sft_steps=2,
        grpo_steps=1,
        grpo_batch=8,
    )
    countdown = example("countdown")
    vars(countdown)["HELD_OUT"] = 4
    found = countdown.main(options)
    assert {how: {*part} for how, part in found.items()} == {
        "drawn": {"SFT", "GRPO", "gain"},
        "greedy": {"SFT", "GRPO", "gain"},
    }
