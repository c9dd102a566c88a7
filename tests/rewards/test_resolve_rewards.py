from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.errors import ConfigError, DataError, PluginError, UnknownName
from trl_deepseek.registry import Entry, Origin, Registry
from trl_deepseek.rewards import check_columns, name_of, resolve, signature_of
from trl_deepseek.rewards.calls import as_batch
from trl_deepseek.types import Reward


def batch(prompts: Any, completions: Any, completion_ids: Any, **columns: Any) -> list[float]:
    return [float(len(c)) for c in completions]


def needs_solution(completions: list[str], solution: list[str]) -> list[float]:
    return [float(c == s) for c, s in zip(completions, solution, strict=True)]


def one(completion: str, solution: str, generation_prefix: str = "") -> float:
    return float(generation_prefix + completion == solution)


async def one_async(completion: str, solution: str) -> float:
    await asyncio.sleep(0)
    return float(completion == solution)


class Longer:
    def __init__(self, than: int) -> None:
        self.than = than

    def __call__(self, completion: str) -> bool:
        return len(completion) > self.than


@pytest.fixture
def registry() -> Registry:
    origin = Origin("maths", None, None, None)
    reward = Reward("exact_match", needs_solution, columns=("solution",))
    return Registry([Entry("rewards", "exact_match", reward, origin)])


def test_names_functions_and_models_resolve_in_the_order_given(
    registry: Registry, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def short(completions, **_):\n    return [1.0] * len(completions)\n")
    given = ["exact_match", batch, f"{file}:short", "owner/model", "model:x/rm"]
    found = resolve(given, registry)
    names = ["exact_match", "batch", "short", "model", "rm"]
    assert [name_of(f) for f in found] == names
    assert found[0] is registry.rewards["exact_match"]
    assert found[3] == "owner/model"
    assert found[4].path == "x/rm"
    assert resolve(found, registry) == found


def test_a_single_reward_needs_no_list(registry: Registry) -> None:
    assert resolve("exact_match", registry) == [registry.rewards["exact_match"]]


def test_an_unknown_name_is_refused_with_the_nearest(registry: Registry) -> None:
    with pytest.raises(UnknownName, match="did you mean 'exact_match'"):
        resolve(["exact_mach"], registry)


def test_a_file_without_that_function_says_which_it_has(registry: Registry, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def short(completions):\n    return []\n")
    with pytest.raises(PluginError, match=r"no function 'shor'\n  it has: short"):
        resolve(f"{file}:shor", registry)


def test_two_rewards_under_one_name_are_refused(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="two rewards are named 'batch'"):
        resolve([batch, functools.partial(batch)], registry)


@pytest.mark.parametrize("wrong", [3, None, {"a": 1}])
def test_what_is_no_reward_is_refused(registry: Registry, wrong: Any) -> None:
    with pytest.raises(ConfigError, match="a reward is a name, a function or a model"):
        resolve([wrong], registry)


def test_a_function_that_takes_no_completion_is_refused(registry: Registry) -> None:
    with pytest.raises(ConfigError, match=r"takes \(text\), which has neither"):
        resolve([lambda text: 0.0], registry)


def test_a_missing_column_is_named_with_the_reward_and_what_was_found(registry: Registry) -> None:
    with pytest.raises(DataError) as caught:
        check_columns(resolve("exact_match", registry), ["prompt", "solutions"])
    assert str(caught.value) == (
        "reward 'exact_match' needs the column 'solution', which the dataset does not have\n"
        "  columns found: prompt, solutions\n"
        "  another column can stand for it: --columns OTHER=solution"
    )


def test_required_parameters_of_a_function_are_columns_it_needs() -> None:
    with pytest.raises(DataError, match="reward 'one' needs the column 'solution'"):
        check_columns([one], ["prompt"])
    check_columns([one, batch, Longer(3), "owner/model"], ["prompt", "solution"])


def test_a_bound_argument_is_no_column() -> None:
    check_columns([functools.partial(one, solution="4")], ["prompt"])


@pytest.mark.parametrize(
    ("function", "per_sample", "is_async"),
    [
        (batch, False, False),
        (one, True, False),
        (one_async, True, True),
        (functools.partial(one_async, solution="4"), True, True),
        (Longer(3), True, False),
        (Reward("r", one_async), True, True),
    ],
)
def test_the_form_is_read_from_the_signature(
    function: Any, per_sample: bool, is_async: bool
) -> None:
    signature = signature_of(function)
    assert (signature.per_sample, signature.is_async) == (per_sample, is_async)


ARGUMENTS = {
    "prompts": ["a", "b"],
    "completions": [[{"role": "assistant", "content": "4"}], "5"],
    "completion_ids": [[1], [2]],
    "solution": ["4", "4"],
    "level": [1, 2],
}


def test_every_form_scores_a_batch() -> None:
    assert as_batch(one)(**ARGUMENTS) == [1.0, 0.0]
    assert asyncio.run(as_batch(one_async)(**ARGUMENTS)) == [1.0, 0.0]
    assert as_batch(Longer(0))(**ARGUMENTS) == [True, True]
    assert as_batch(batch)(**ARGUMENTS) == [1.0, 1.0]
    assert as_batch(one).__name__ == "one"


def test_the_generation_prefix_reaches_rewards_that_take_it() -> None:
    seen: dict[str, Any] = {}

    def takes_all(completions: list[str], **columns: Any) -> list[float]:
        seen.update(columns)
        return [0.0] * len(completions)

    as_batch(takes_all, generation_prefix="<think>\n")(**ARGUMENTS)
    assert seen["generation_prefix"] == "<think>\n"
    assert as_batch(one, generation_prefix="<think>")(
        **{**ARGUMENTS, "solution": ["<think>4", "5"]}
    ) == [1.0, 0.0]
    as_batch(needs_solution, generation_prefix="<think>")(**ARGUMENTS)
