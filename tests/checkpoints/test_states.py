"""What rewards and other plugins remember goes into checkpoints and comes back."""

from __future__ import annotations

import asyncio
import logging
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trl_deepseek import load_registry
from trl_deepseek.checkpoints import states
from trl_deepseek.errors import RunError
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.rewards.placing import Guards
from trl_deepseek.rewards.resolving import resolve
from trl_deepseek.trainers.saving import TakeUp
from trl_deepseek.workers.remembering import Remember, answer


class Counter:
    """Scores how often it was called."""

    __name__ = "counter"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, completions: list[str], **_: Any) -> list[float]:
        self.calls += 1
        return [float(self.calls)] * len(completions)


def test_a_file_that_holds_something_else_is_one_message() -> None:
    def read(_: Path) -> None:
        raise KeyError("step")

    trainer = SimpleNamespace(_resumed="out/checkpoint-2", _read_own=read)
    arguments = SimpleNamespace(should_save=False), SimpleNamespace(global_step=2), None
    with pytest.raises(RunError) as ended:
        TakeUp(trainer).on_train_begin(*arguments)
    assert str(ended.value) == "out/checkpoint-2 cannot be taken up: KeyError: 'step'"


# In a file of its own, so that a worker process need not import what this one does.
KEPT = """
class Kept:
    __name__ = "kept"

    def __init__(self):
        self.calls = 0

    def __call__(self, completions, **_):
        self.calls += 1
        return [float(self.calls)] * len(completions)

    def state_dict(self):
        return {"calls": self.calls}

    def load_state_dict(self, state):
        self.calls = state["calls"]

kept = Kept()
"""


class Kept(Counter):
    __name__ = "kept"

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls, "seen": torch.arange(2)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.calls = state["calls"]


def score(guards: Guards) -> float:
    (reward,) = guards.functions
    scores = asyncio.run(reward(prompts=["a"], completions=["b"], completion_ids=[[1]]))
    return float(scores[0])


@pytest.mark.parametrize(
    "settings",
    [Settings(), Settings(workers=2), Settings(isolate=True, workers=2)],
    ids=["here", "workers", "isolated"],
)
def test_a_reward_goes_on_from_what_it_remembered_wherever_it_runs(
    settings: Settings, tmp_path: Path
) -> None:
    registry = load_registry()
    for name in ("a.py", "b.py"):  # two modules, so that they share nothing in this process
        (tmp_path / name).write_text(KEPT)
    guards, again = (
        Guards(resolve([f"{tmp_path / name}:kept"], registry), registry, settings)
        for name in ("a.py", "b.py")
    )
    try:
        assert [score(guards) for _ in range(3)] == [1.0, 2.0, 3.0]
        held = states.take(guards.with_state())
        assert held["reward 'kept'"]["state"]["calls"] == 3
        states.give_back(again.with_state(), held, "checkpoint-3")
        assert score(again) == 4.0
    finally:
        guards.close()
        again.close()


def test_what_a_reward_without_the_two_methods_forgets_is_said_on_resume(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = load_registry()
    guards = Guards([Counter()], registry, Settings())
    untouched = states.take(guards.with_state())
    score(guards)
    held = states.take(guards.with_state())
    again = Guards([Counter()], registry, Settings())
    with caplog.at_level(logging.WARNING, "trl_deepseek"):
        states.give_back(again.with_state(), untouched, "checkpoint-0")
        assert caplog.messages == []
        states.give_back(again.with_state(), held, "checkpoint-1")
    (message,) = caplog.messages
    assert message.startswith("reward 'counter' (")
    assert "had changed since the run began, and the checkpoint does not hold how" in message


def test_a_checkpoint_without_the_state_of_a_reward_that_has_one_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guards = Guards([Kept()], load_registry(), Settings())
    with caplog.at_level(logging.WARNING, "trl_deepseek"):
        states.give_back(guards.with_state(), {}, "out/checkpoint-2")
    assert caplog.messages == ["out/checkpoint-2 holds no state of reward 'kept': it begins anew"]


def test_a_state_that_could_not_be_read_back_safely_is_refused_when_it_is_saved() -> None:
    part = states.Stateful(lambda: {"of": Counter()}, lambda state: None)
    with pytest.raises(RunError, match="noise 'x': its state cannot be kept in a checkpoint"):
        states.take({"noise 'x'": part})
    failing = states.Stateful(lambda: 1 / 0, lambda state: None)
    with pytest.raises(RunError, match=r"noise 'x': state_dict\(\) failed: ZeroDivisionError"):
        states.take({"noise 'x'": failing})


def test_tensors_cross_to_a_worker_and_back_by_value() -> None:
    problem, packed = answer(Remember("kept"), Kept())
    assert problem is None
    assert packed is not None
    again = Kept()
    assert answer(Remember("kept", packed), again) == (None, None)
    assert torch.equal(pickle.loads(packed)["seen"], torch.tensor([0, 1]))
