"""What docs/rewards.md shows runs, and does what the text says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek import load_registry, testing


def blocks(repository: Path) -> list[str]:
    page = (repository / "docs" / "rewards.md").read_text()
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def test_the_plugin_file_with_options_registers_what_it_says(
    repository: Path, tmp_path: Path
) -> None:
    (text,) = [block for block in blocks(repository) if "register_rewards" in block]
    file = tmp_path / "my_rewards.py"
    file.write_text(text)
    rewards = load_registry([str(file)]).rewards
    assert rewards["chinese"](completions=["你好", "hello there"]) == [1.0, 0.0]
    ids = [[1] * 384, [1] * 448, [1] * 512]
    assert rewards["short"](completions=[""] * 3, completion_ids=ids) == [0.0, -0.5, -1.0]


def test_the_fixtures_are_called_as_shown(
    repository: Path,
    check_reward: testing.CheckReward,
    make_completion: testing.MakeCompletion,
) -> None:
    (text,) = [block for block in blocks(repository) if "def test_short" in block]

    def short(completion: str, limit: int) -> float:
        return float(len(completion) <= limit)

    def check_unpickled(reward: Any, cases: Any) -> None:
        check_reward(reward, cases, pickles=False)  # a function inside a test cannot

    trained: list[Any] = []

    def train_one_step(reward: Any, rows: Any) -> None:
        trained.append((reward, rows))

    scope: dict[str, Any] = {"short": short}
    exec(text, scope)
    scope["test_short"](lambda target: None, check_unpickled, make_completion, train_one_step)
    assert trained == [(short, [{"prompt": "2+2?", "limit": 5}] * 4)]


@pytest.mark.parametrize("command", ["rewards test", "rewards replay", "plugins check"])
def test_the_commands_shown_exist(command: str, repository: Path) -> None:
    assert f"trl-deepseek {command} " in (repository / "docs" / "rewards.md").read_text()
