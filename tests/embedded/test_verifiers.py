"""A run without rewards is scored by the verifier that its rows bring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from trl_deepseek import GRPOConfig, GRPOTrainer, data, hookimpl, load_registry, rewards
from trl_deepseek.cli.plugin_page import describe, find
from trl_deepseek.errors import ConfigError, DataError
from trl_deepseek.rewards.verifiers import brought_by
from trl_deepseek.rollouts.history import read
from trl_deepseek.rollouts.trial import Samples, score
from trl_deepseek.types import Register

ROWS = [{"prompt": [{"role": "user", "content": "1+1"}], "solution": "2"}] * 4
COINS = [{"prompt": row["prompt"], "coins": [1, 1]} for row in ROWS]


def counts_coins(completion: str, coins: list[int]) -> float:
    return float(str(sum(coins)) in completion)


class Plugin:
    """A task with a system prompt, a verifier of its own and a package that is not there."""

    @hookimpl
    def register_rewards(self, register: Register) -> None:
        register("short", lambda completion: -len(str(completion)))
        register("counts_coins", counts_coins)

    @hookimpl
    def register_datasets(self, register: Register) -> None:
        def build(split: str, kind: str, size: int | None, seed: int, tens: int = 1) -> Dataset:
            return Dataset.from_list(ROWS * tens)

        register("terse", build, verifier="short", system_prompt="Be brief.")
        register("absent", build, requires="no_such_module")
        register("coins", lambda **_: Dataset.from_list(COINS), verifier="counts_coins")


REGISTRY = load_registry(plugins=[Plugin()])


def scored_by(rows: Any, tmp_path: Path, **options: Any) -> list[str]:
    config = GRPOConfig(
        str(tmp_path), per_device_train_batch_size=2, num_generations=2, report_to="none"
    )
    inputs = GRPOTrainer.check("tiny-deepseek-llm", config, rows, registry=REGISTRY, **options)
    return [rewards.name_of(each) for each in inputs.parts.functions]


def test_an_embedded_task_brings_its_verifier(tmp_path: Path) -> None:
    for name, verifier in (("arithmetic", "exact_match"), ("cups", "exact_match")):
        assert scored_by(REGISTRY.datasets[name](size=4), tmp_path) == [verifier]
    assert scored_by(REGISTRY.datasets["terse"](), tmp_path) == ["short"]


def test_rewards_that_are_named_win(tmp_path: Path) -> None:
    rows = REGISTRY.datasets["arithmetic"](size=4)
    assert scored_by(rows, tmp_path, reward_funcs="short") == ["short"]


@pytest.mark.parametrize(("task", "verifier"), [("terse", "short"), ("numeric_match",) * 2])
def test_rows_name_their_task(task: str, verifier: str, tmp_path: Path) -> None:
    rows = Dataset.from_list([{**row, "task": task} for row in ROWS])
    assert scored_by(rows, tmp_path) == [verifier]


TASKS = ("terse", "arithmetic", "short", "arithmetic")


def test_rows_of_different_tasks_are_scored_each_by_its_own(tmp_path: Path) -> None:
    rows = Dataset.from_list([{**r, "task": t} for r, t in zip(ROWS, TASKS, strict=True)])
    assert scored_by(rows, tmp_path) == ["short", "exact_match"]
    said = ["2", "2", "two", "3"]
    columns = {"task": TASKS, "solution": ["2"] * 4}
    found = [
        list(score(each, Samples(said, columns=columns)).outcomes)
        for each in brought_by(rows, REGISTRY)
    ]
    assert found == [[-1, None, -3, None], [None, 1.0, None, 0.0]]


def test_a_mixture_of_tasks_with_different_verifiers_trains(tmp_path: Path) -> None:
    parts = [{"path": "terse"}, {"path": "coins"}]
    mixture = data.mix(parts, REGISTRY, kind="prompts").shuffle(seed=0)
    assert set(mixture["task"]) == {"terse", "coins"}
    plugins: Any = [Plugin()]
    config = GRPOConfig(
        str(tmp_path),
        chat_template="deepseek-v3",
        per_device_train_batch_size=16,
        num_generations=2,
        max_completion_length=4,
        max_steps=1,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        gradient_checkpointing=False,
        plugins=plugins,
    )
    trainer = GRPOTrainer("tiny-deepseek-llm", None, config, mixture)
    trainer.train()
    rows = list(read(tmp_path))
    assert len(rows) == 16
    for row in rows:
        coins = row.columns["task"] == "coins"
        assert (row.scores["short"] is None) == coins
        assert (row.scores["counts_coins"] is None) != coins
        assert (row.columns["coins"] is None) != coins
    (log, *_) = trainer.state.log_history
    assert log["rewards/short/abstained"] == log["rewards/counts_coins/abstained"] == 0


def test_a_row_without_a_task_is_named(tmp_path: Path) -> None:
    rows = Dataset.from_list(
        [{**row, "task": None if i == 2 else "terse"} for i, row in enumerate(ROWS)]
    )
    with pytest.raises(DataError, match="row 2: column 'task' names no task"):
        scored_by(rows, tmp_path)


def test_a_system_prompt_begins_every_conversation() -> None:
    for row in REGISTRY.datasets["terse"]():
        assert row["prompt"] == [{"role": "system", "content": "Be brief."}, *ROWS[0]["prompt"]]


def test_options_reach_the_builder() -> None:
    assert len(REGISTRY.datasets["terse"](tens=3)) == 12
    with pytest.raises(ConfigError, match=r"terse has no option 'ten' \(did you mean 'tens'\?\)"):
        REGISTRY.datasets["terse"](ten=3)


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="dataset 'absent' needs the module 'no_such_module'"):
        REGISTRY.datasets["absent"]()


def test_its_page_says_what_it_brings() -> None:
    (entry,) = find(REGISTRY, "terse")
    page = describe(entry)
    assert (page["verifier"], page["begins with"]) == ("short", "Be brief.")
    assert [option["name"] for option in page["options"]] == ["tens"]
    (entry,) = find(REGISTRY, "calculator")
    assert describe(entry)["called with"] == ["expression"]


def test_a_verifier_that_is_not_there_is_named(tmp_path: Path) -> None:
    class Broken:
        @hookimpl
        def register_datasets(self, register: Register) -> None:
            register("lost", lambda **_: Dataset.from_list(ROWS), verifier="exact_mach")

    registry = load_registry(plugins=[Broken()])
    with pytest.raises(ConfigError, match="'lost' brings the verifier 'exact_mach', which no"):
        brought_by(registry.datasets["lost"](), registry)
