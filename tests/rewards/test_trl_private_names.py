"""Names of TRL's and transformers' that are not public, so that an upgrade fails by name."""

from __future__ import annotations

import inspect

import pytest
import trl
from trl.trainer.utils import get_callable_name, is_async_callable

from trl_deepseek.registry import Registry
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.rewards.placing import Guards

PARAMETERS = {
    "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
    "_generate_and_score_completions": ["self", "inputs"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_load_optimizer_and_scheduler": ["self", "checkpoint"],
    "_get_output_dir": ["self", "trial"],
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_method_that_grpo_overrides_or_calls_takes_what_it_took(name: str) -> None:
    method = inspect.unwrap(getattr(trl.GRPOTrainer, name))
    assert list(inspect.signature(method).parameters) == PARAMETERS[name]


@pytest.mark.parametrize(
    "attribute", ["_step", "_buffered_inputs", "_metrics", "reward_weights", "reward_func_names"]
)
def test_an_attribute_that_grpo_reads_is_set_by_trl(attribute: str) -> None:
    assert f"self.{attribute} = " in inspect.getsource(trl.GRPOTrainer.__init__)


def test_trl_awaits_a_guarded_reward_under_its_own_name() -> None:
    def short(completions: list[str]) -> list[float]:
        return [0.0] * len(completions)

    (guard,) = Guards([short], Registry([]), Settings()).functions
    assert is_async_callable(guard)
    assert get_callable_name(guard) == "short"
