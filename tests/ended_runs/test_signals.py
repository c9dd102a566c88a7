"""Ctrl-C, SIGTERM and SIGHUP to commands: the step is finished, saved, and how to go on is said."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers.trainer_callback import DefaultFlowCallback

from trl_deepseek import stopping
from trl_deepseek.cli.main import main

HANDLERS = [signal.getsignal(each) for each in stopping.SIGNALS]


def tell(number: int) -> Callable[[], None]:
    return partial(os.kill, os.getpid(), number)


@pytest.mark.parametrize(
    ("command", "options", "by", "said"),
    [
        pytest.param("sft", {}, signal.SIGTERM, "ended by SIGTERM", id="sft"),
        pytest.param("dpo", {}, signal.SIGHUP, "ended by SIGHUP", id="dpo"),
        pytest.param("kto", {}, signal.SIGINT, "interrupted", id="kto"),
        pytest.param(
            "reward", {"save_strategy": "no"}, signal.SIGTERM, "ended by SIGTERM", id="no-saves"
        ),
        pytest.param(
            "grpo", {"save_steps": 50, "reward_workers": 1}, signal.SIGTERM, "ended by SIGTERM"
        ),
        pytest.param(
            "sft",
            {
                "save_strategy": "best",
                "metric_for_best_model": "eval_loss",
                "eval_strategy": "steps",
                "eval_steps": 1,
                "eval_dataset": "sft.jsonl",
            },
            signal.SIGINT,
            "interrupted",
            id="best-only",
        ),
    ],
)
@pytest.mark.usefixtures("folder")
def test_the_first_signal_ends_a_run_after_its_step_with_a_checkpoint_of_it(
    words: Callable[..., list[str]],
    in_step: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
    command: str,
    options: dict[str, Any],
    by: signal.Signals,
    said: str,
) -> None:
    in_step(2, tell(by))
    assert main(words(command, **options)) == 128 + by
    error = capfd.readouterr().err
    checkpoint = "out/checkpoint-2"
    assert f"\n{by.name}: the run stops after this step and saves a checkpoint" in error
    assert error.endswith(
        f"\ntrl-deepseek {command}: {said}; the last checkpoint is {checkpoint}; "
        f"go on with --resume_from_checkpoint {checkpoint}\n"
    )
    state = json.loads(Path(checkpoint, "trainer_state.json").read_text())
    assert state["global_step"] == 2
    assert Path(checkpoint, "optimizer.pt").is_file()
    assert [signal.getsignal(each) for each in stopping.SIGNALS] == HANDLERS


@pytest.mark.usefixtures("folder")
def test_an_evaluation_is_broken_off_and_made_when_the_run_goes_on(
    words: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    evaluates = {
        "eval_strategy": "steps",
        "eval_steps": 2,
        "eval_dataset": "sft.jsonl",
        "per_device_eval_batch_size": 1,
        "metric_for_best_model": "eval_loss",
        "load_best_model_at_end": "true",
        "save_steps": 2,
        "logging_steps": 1,
    }
    assert main(words("sft", **{**evaluates, "output_dir": "undisturbed"})) == 0
    batches: list[int] = []

    def on_prediction_step(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        batches.append(state.global_step)
        if batches == [2]:
            tell(signal.SIGTERM)()

    monkeypatch.setattr(DefaultFlowCallback, "on_prediction_step", on_prediction_step)
    assert main(words("sft", **evaluates)) == 143
    assert batches == [2]  # of the four
    assert "go on with --resume_from_checkpoint out/checkpoint-2\n" in capfd.readouterr().err
    assert main(words("sft", **evaluates, resume_from_checkpoint="true")) == 0
    assert batches == [2] + 4 * [2] + 4 * [4]
    logs, best = [], []
    for folder in ("undisturbed", "out"):
        state = json.loads(Path(folder, "checkpoint-4", "trainer_state.json").read_text())
        lines = [{k: v for k, v in log.items() if "_per_" not in k} for log in state["log_history"]]
        logs.append([{k: v for k, v in line.items() if "runtime" not in k} for line in lines])
        best.append((state["best_global_step"], state["best_metric"]))
    assert logs[0] == logs[1]
    assert best[0] == best[1]


@pytest.mark.usefixtures("folder")
def test_a_second_signal_ends_it_at_once_and_names_the_last_checkpoint(
    words: Callable[..., list[str]],
    in_step: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stopping, "TOGETHER", 0.0)

    def both() -> None:
        tell(signal.SIGTERM)()
        tell(signal.SIGTERM)()

    in_step(3, both)
    assert main(words("sft")) == 143
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert error.endswith(
        "is out/checkpoint-2; go on with --resume_from_checkpoint out/checkpoint-2\n"
    )
    assert not Path("out/checkpoint-3").exists()


@pytest.mark.usefixtures("folder")
def test_a_signal_that_a_group_gets_twice_is_one(
    words: Callable[..., list[str]], in_step: Callable[..., None]
) -> None:
    def twice() -> None:
        tell(signal.SIGINT)()
        tell(signal.SIGTERM)()

    in_step(1, twice)
    assert main(words("sft")) == 130
    assert Path("out/checkpoint-1/trainer_state.json").is_file()


def test_what_was_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        with stopping.handled():
            tell(signal.SIGHUP)()
            assert stopping.requested() is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_before_training_a_signal_ends_the_command_at_once(
    words: Callable[..., list[str]], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("telling.py").write_text(
        f"import os\nos.kill(os.getpid(), {int(signal.SIGTERM)})\nscore = len\n"
    )
    assert main(words("grpo", reward_funcs="telling.py:score")) == 143
    assert capfd.readouterr().err == "\ntrl-deepseek grpo: ended by SIGTERM; nothing was saved\n"
    assert not Path("out").exists()


def test_a_fork_that_inherits_the_handlers_leaves_ctrl_c_to_its_parent_and_ends_by_sigterm() -> (
    None
):
    with stopping.handled():
        child = os.fork()
        if child == 0:
            tell(signal.SIGINT)()
            tell(signal.SIGTERM)()
            os._exit(7)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGTERM
        assert stopping.requested() is None


def test_a_run_goes_on_to_the_end_of_its_step_when_its_terminal_is_gone(folder: Path) -> None:
    ours, theirs = os.openpty()
    child = os.fork()
    if child == 0:
        os.setsid()
        import fcntl
        import termios

        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        for stream in (0, 1, 2):
            os.dup2(theirs, stream)
        os.close(ours)
        os.close(theirs)
        sys.stderr = os.fdopen(2, "w")
        with stopping.handled(), stopping.waiting():
            os.write(1, b"ready")
            while stopping.requested() is None:
                signal.pause()
            print("progress", file=sys.stderr, flush=True)
            Path("saved").touch()
            os._exit(0)
    os.close(theirs)
    assert os.read(ours, 5) == b"ready"
    os.close(ours)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert Path("saved").exists()
