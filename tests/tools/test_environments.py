"""An environment that hangs, raises or cannot be begun ends as its page says, and is counted."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from transformers.utils import get_json_schema

from trl_deepseek import GRPOConfig, GRPOTrainer
from trl_deepseek.errors import ConfigError, DataError, RewardError, RunError
from trl_deepseek.rollouts.history import read
from trl_deepseek.tools import Environments, Guard, Settings, check_factory
from trl_deepseek.types import Tool

FOREVER = threading.Event()
QUICK = Settings(timeout=0.2)


class Maze:
    """A maze of which each rollout has one."""

    worth = 1.0

    def __init__(self) -> None:
        self.walked: list[str] = []

    def reset(self, way_in: str = "", **row: Any) -> str | None:
        if way_in == "hang":
            FOREVER.wait()
        self.walked = []
        return f"<｜User｜>{way_in}" if way_in == "token" else None

    def walk(self, way: str) -> Any:
        """Walk on.

        Args:
            way: Where to.
        """
        self.walked.append(way)
        if way == "hang":
            FOREVER.wait()
        if way == "raise":
            raise OSError("a wall")
        return {"walked": self.walked} if way == "look" else f"at {len(self.walked)}"

    async def wait(self) -> str:
        """Wait a moment."""
        return "waited"

    def get_reward(self) -> float:
        if "hang" in self.walked:
            raise AssertionError("a lost environment is not asked")
        return len(self.walked) * self.worth


def made(settings: Settings = QUICK, tools: Any = ()) -> tuple[Any, Guard]:
    guard = Guard(list(tools), settings, re.compile("<｜User｜>"))
    return Environments(check_factory(Maze, settings), guard).factory(), guard


def counted(guard: Guard) -> dict[str, int]:
    return {name: count for name, count in guard.take_counts().items() if count}


def test_a_method_is_a_tool_under_the_contract() -> None:
    maze, guard = made()
    assert get_json_schema(maze.walk) == get_json_schema(Maze().walk)
    assert maze.walk(way="on") == "at 1"
    assert maze.walk(way="look") == '{"walked": ["on", "look"]}'
    assert maze.wait() == "waited"
    with pytest.raises(Exception, match=r"^walk raised OSError: a wall"):
        maze.walk(way="raise")
    with pytest.raises(Exception, match="walk: missing a required argument: 'way'"):
        maze.walk(path="on")
    assert counted(guard) == {
        "tools/walk/calls": 4,
        "tools/walk/errors": 2,
        "tools/wait/calls": 1,
    }
    assert maze.walked == ["on", "look", "raise"]
    assert isinstance(maze, Maze)


def test_what_hangs_is_given_up_until_the_next_episode_which_has_a_new_one() -> None:
    maze, guard = made()
    with pytest.raises(Exception, match=r"^walk did not finish within 0\.2 s"):
        maze.walk(way="hang")
    first = maze.walked
    with pytest.raises(Exception, match=r"^wait finds no environment: walk did not finish"):
        maze.wait()
    assert counted(guard) == {
        "tools/walk/calls": 1,
        "tools/walk/timeouts": 1,
        "tools/wait/calls": 1,
        "tools/wait/errors": 1,
    }
    maze.reset(prompt="q")
    assert maze.walk(way="on") == "at 1"
    assert first == ["hang"]


@pytest.mark.parametrize(
    ("way_in", "said"),
    [
        ("hang", "reset did not finish within 0.2 s"),
        ("token", "reset returned the control token '<｜User｜>'"),
        ("", "reset returns nothing, and the row has no prompt either"),
    ],
)
def test_an_episode_that_cannot_begin_ends_the_run(way_in: str, said: str) -> None:
    maze, _ = made()
    with pytest.raises(RunError, match=re.escape(f"environment 'Maze': {said}")):
        maze.reset(way_in=way_in)
    maze.reset(prompt=[{"role": "user", "content": "q"}])


def test_a_failure_of_a_method_can_stop_the_run() -> None:
    maze, guard = made(Settings(on_error="raise"))
    with pytest.raises(Exception, match="a wall"):
        maze.walk(way="raise")
    assert "tool 'walk' raised OSError: a wall" in str(guard.failure)


class Undescribed(Maze):
    def jump(self, far):  # type: ignore[no-untyped-def]
        return far


def test_what_the_model_could_not_be_told_of_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tool 'Undescribed\.jump' cannot be described"):
        check_factory(Undescribed, QUICK)
    with pytest.raises(ConfigError, match="environments live in the training process"):
        check_factory(Maze, Settings(isolate=True))
    with pytest.raises(ConfigError, match="two tools are named 'walk'"):
        made(tools=[Tool("walk", Maze().walk)])
    with pytest.raises(ConfigError, match="environment_factory: broken raised OSError: no port"):
        Environments(broken, Guard([], QUICK)).factory()


def broken() -> Maze:
    raise OSError("no port")


# The calls of a group's completions, and what its environments are worth.
CALLS = ("on", "hang", "raise", "look")
ASKED = Dataset.from_list([{"prompt": [{"role": "user", "content": "q"}]}] * 4)


def rolled_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Any = Maze,
    rows: Dataset = ASKED,
    **options: Any,
) -> GRPOTrainer:
    args = GRPOConfig(
        str(tmp_path),
        **{
            "chat_template": "deepseek-v4",
            "report_to": "none",
            "per_device_train_batch_size": 4,
            "num_generations": 4,
            "max_completion_length": 400,
            "max_steps": 1,
            "logging_steps": 1,
            "tool_timeout": 0.2,
            "disable_tqdm": True,
            "activation_checkpointing": False,
            **options,
        },
    )
    trainer: Any = GRPOTrainer("tiny-deepseek-llm", None, args, rows, environment_factory=make)
    call = (
        '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="walk">\n<｜DSML｜parameter name="way" '
        'string="true">{}</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
    )
    end = "<｜end▁of▁sentence｜>"
    turns = iter([[f"</think>{call.format(way)}{end}" for way in CALLS], [f"</think>x{end}"] * 4])

    def generate(prompts: list[Any], *_: Any, **__: Any) -> Any:
        said = next(turns)[: len(prompts)]
        return [trainer.processing_class.encode(text) for text in said], None

    monkeypatch.setattr(trainer, "_generate_single_turn", generate)
    trainer.train()
    return trainer


@pytest.mark.transformers("5.15")
def test_a_hanging_environment_costs_its_rollout_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = rolled_out(tmp_path, monkeypatch).state.log_history[0]
    assert [row.scores["Maze"] for row in read(tmp_path)] == [1.0, None, 1.0, 1.0]
    assert log["tools/walk/calls"] == 4
    assert log["tools/walk/timeouts"] == log["tools/walk/errors"] == 1
    assert log["rewards/Maze/abstained"] == 1
    told = [row.completion[1]["content"] for row in read(tmp_path)]
    assert told[0] == "at 1"
    assert "did not finish within 0.2 s" in told[1]


class Unworthy(Maze):
    def get_reward(self) -> float:
        raise OSError("no judge")


@pytest.mark.transformers("5.15")
@pytest.mark.matrix
def test_what_scores_an_episode_is_a_reward_like_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Maze, "get_reward", Unworthy.get_reward)
    with pytest.raises(RewardError, match=r"reward 'Maze' .*no judge"):
        rolled_out(tmp_path, monkeypatch)
    log = rolled_out(tmp_path, monkeypatch, reward_on_error=0.0).state.log_history[0]
    assert log["rewards/Maze/errors"] == 3


class Town(Maze):
    def reset(self, way_in: str = "", **row: Any) -> str:
        super().reset(way_in)
        return f"Which way, {sorted(row)}?"


class Village(Town):
    pass


@pytest.mark.transformers("5.15")
def test_environments_ask_the_question_themselves_and_rows_name_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Dataset.from_dict({"environment": ["town"] * 4, "size": [3] * 4})
    makes = {"town": Town, "village": Village}
    rolled_out(tmp_path, monkeypatch, rows=rows, make=makes)
    done = list(read(tmp_path))
    assert [row.scores for row in done] == [
        {"Town": score, "Village": None} for score in (1.0, None, 1.0, 1.0)
    ]
    assert done[0].prompt[-1]["content"] == "Which way, ['size']?"


@pytest.mark.parametrize(
    ("columns", "makes", "said"),
    [
        ({"size": [3]}, None, "has no column 'prompt', which GRPO needs"),
        ({"size": [3]}, {"town": Town}, "has no column 'environment', which names the environment"),
        (
            {"environment": ["city"]},
            {"town": Town, "maze": Maze},
            "row 0: column 'environment' holds 'city', which is none of town, maze",
        ),
        ({"prompt": [[]]}, Town, "row 0: column 'prompt' "),
    ],
)
def test_rows_without_a_question_or_an_environment_are_refused(
    columns: dict[str, list[Any]], makes: Any, said: str, tmp_path: Path
) -> None:
    args = GRPOConfig(str(tmp_path), chat_template="deepseek-v4", report_to="none")
    options = {} if makes is None else {"environment_factory": makes}
    with pytest.raises(DataError, match=re.escape(said)):
        GRPOTrainer(
            "tiny-deepseek-llm", "think_format", args, Dataset.from_dict(columns), **options
        )
