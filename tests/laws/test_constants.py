"""Constants that mirror something elsewhere are held to it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
import trl

from trl_deepseek import environment, load_registry
from trl_deepseek.policy.plan import LOSS_FIELDS, TRL_LOSSES
from trl_deepseek.trainers import ranges

ROOT = Path(__file__).parents[2]
# Where TRL looks at a word only once the run is under way.
READERS: dict[str, Any] = {
    "scale_rewards": trl.GRPOTrainer._generate_and_score_completions,
    "importance_sampling_level": trl.GRPOTrainer._compute_loss,
    "multi_objective_aggregation": trl.GRPOTrainer._generate_and_score_completions,
    "vllm_importance_sampling_mode": trl.GRPOTrainer._generate_and_score_completions,
}


def test_the_extras_that_messages_name_are_those_of_the_distribution() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert set(environment.EXTRAS) <= set(extras)
    # each is named after the library, or a word of it, that a user would look for
    for name in environment.EXTRAS:
        assert any(requirement.startswith(name) for requirement in extras[name])
    trackers = set(extras) & {"tensorboard", "wandb", "mlflow", "trackio", "swanlab"}
    assert trackers <= set(environment.EXTRAS)


def words_in(function: Any) -> set[str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@pytest.mark.parametrize("option", READERS)
def test_the_words_that_are_allowed_are_those_that_trl_compares_with(option: str) -> None:
    assert set(ranges.POLICY_WORDS[option]) - words_in(READERS[option]) == set()


def test_the_options_of_policy_losses_are_trls_fields_and_stock_names_trls() -> None:
    losses = load_registry().policy_losses
    assert {name for name, loss in losses.items() if loss.stock} == set(TRL_LOSSES)
    theirs = {each.name: each.default for each in dataclasses.fields(trl.GRPOConfig)}
    for name in TRL_LOSSES:
        assert set(losses[name].options) <= {*LOSS_FIELDS}
        for option, default in losses[name].options.items():
            assert theirs[option] == default


def test_the_divergences_are_those_of_trl() -> None:
    assert set(ranges.DIVERGENCES) <= words_in(trl.DPOTrainer._compute_loss)
