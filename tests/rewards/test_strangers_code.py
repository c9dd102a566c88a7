"""What rewards may do to the processes around them: nothing that lasts."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from trl_deepseek.errors import ConfigError, PluginError
from trl_deepseek.jobs import stage_process
from trl_deepseek.plugin_loading import load_registry
from trl_deepseek.registry import Registry
from trl_deepseek.rewards import name_of, resolve
from trl_deepseek.rewards.contract import Settings
from trl_deepseek.rewards.placing import Guards, origin_of
from trl_deepseek.sources import import_file
from trl_deepseek.trainers.configs import GRPOConfig
from trl_deepseek.types import Reward
from trl_deepseek.workers import process, supervised
from trl_deepseek.workers.calls import Call, Failure, judge, perform, run_to_end

NOBODY = Registry([])
SECONDS = f"3600.{os.getpid()}"  # by which the processes that these rewards leave are known
FILE = """
import os, signal, subprocess, sys, time

SECONDS = "%s"

class Mute(Exception):
    def __str__(self):
        raise ZeroDivisionError

class Slow:
    def __reduce__(self):
        return (time.sleep, (2.5,))

def slow(completion: str, row) -> float:
    return 1.0

def leaves(completion: str) -> float:
    subprocess.Popen(["sleep", SECONDS])
    return 1.0

def huge(completion: str) -> float:
    if completion == "message":
        raise ValueError("x" * (64 << 20))
    return [0.0] * (8 << 20)

class Unreadable:
    def __reduce__(self):
        return (int, ("not a number",))

def reward(completion: str, log_extra=None, log_metric=None) -> float:
    if completion == "mute":
        raise Mute
    if completion == "stray":  # an orphan that nothing tells from a stranger's process
        if os.fork() == 0:
            os.setsid()
            subprocess.Popen(["sleep", SECONDS], env={})
            os._exit(0)
        os.wait()
        os.kill(os.getpid(), signal.SIGKILL)
    if completion == "raises":
        raise ValueError("no")
    return 1.0

def extra(completions, log_extra, **_):
    log_extra("column", [Unreadable()])
    return [1.0] * len(completions)

class Counts:
    def __init__(self):
        self.calls = 0
    def __call__(self, completion: str) -> float:
        self.calls += 1
        return float(self.calls)

def remembers(completion: str) -> float:
    global CALLS
    CALLS = 1.0
    return CALLS

counts = Counts()
squared = lambda completion: len(completion) ** 2.0
""".replace("%s", SECONDS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def score(guard: Any, completions: list[str], **columns: Any) -> list[float | None]:
    return asyncio.run(
        guard(prompts=["p"] * len(completions), completions=completions,
              completion_ids=[[1]] * len(completions), **columns)
    )  # fmt: skip


def guard(name: str, **settings: Any) -> Guards:
    return Guards(resolve(name, NOBODY), NOBODY, Settings(**settings))


def sleepers() -> list[int]:
    found = psutil.process_iter(["cmdline"])
    return [one.pid for one in found if SECONDS in (one.info["cmdline"] or ())]


def test_what_a_reward_started_ends_with_the_worker_that_it_crashes(file: Path) -> None:
    guards = guard(f"{file}:reward", workers=1, on_error="abstain")
    assert score(guards.functions[0], ["stray", "ok"]) == [None, 1.0]
    assert sleepers() == []
    guards.close()


def test_nothing_gets_away_from_a_keeper_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its worker and what that left in other sessions change parents while they are looked for."""
    monkeypatch.setattr(supervised, "PATIENCE", 0.0)
    code = (
        "import subprocess, time\n"
        "from trl_deepseek.workers.supervised import keep\n"
        "keep()\n"
        f"command = ['sleep', '{SECONDS}']\n"
        "away = {'env': {}, 'start_new_session': True}\n"
        "started = [subprocess.Popen(command, **away) for _ in range(5)]\n"
        "print('started', flush=True)\n"
        "time.sleep(3600)\n"
    )
    for _ in range(8):
        worker = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
        )
        with worker:
            assert worker.stdout is not None
            worker.stdout.readline()
            supervised.end(worker, kept=True)
        assert sleepers() == []


def test_hundreds_of_failing_calls_leave_nothing_behind(file: Path) -> None:
    guards = guard(f"{file}:reward", workers=2, on_error="abstain", max_failures=10**6)
    (reward,) = guards.functions
    me = psutil.Process()
    for i in range(3):  # until both workers have been needed
        score(reward, ["stray", f"first {i}"] + ["raises"] * 20)
    before = (me.num_fds(), threading.active_count(), len(me.children(recursive=True)))
    for i in range(20):
        score(reward, ["stray", f"ok {i}"] + ["raises"] * 20)
    deadline = time.monotonic() + 60  # threads that read the output of what was killed end soon
    while threading.active_count() > before[1] and time.monotonic() < deadline:
        time.sleep(0.02)
    after = (me.num_fds(), threading.active_count(), len(me.children(recursive=True)))
    assert all(late <= early + 1 for early, late in zip(before, after, strict=True)), (
        before,
        after,
    )
    assert sleepers() == []
    guards.close()


def test_an_error_that_cannot_be_shown_costs_no_time(file: Path) -> None:
    guards = guard(f"{file}:reward", workers=1, on_error="abstain", timeout=3600.0)
    assert score(guards.functions[0], ["mute", "ok"]) == [None, 1.0]
    guards.close()


def test_the_time_to_read_arguments_is_not_the_rewards(file: Path) -> None:
    guards = guard(f"{file}:slow", workers=1, timeout=2.0)
    (reward,) = guards.functions
    row = import_file(file).Slow()
    assert score(reward, ["a"], row=[row]) == [1.0]
    guards.close()


def test_a_leak_costs_the_worker_once_it_is_large(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "COUNT_AGAIN", 0.0)
    monkeypatch.setattr(process, "MAX_CHILDREN", 4)
    guards = guard(f"{file}:leaves", workers=1, on_error="abstain")
    scores = score(guards.functions[0], [str(number) for number in range(12)])
    assert 1 <= scores.count(None) < 6
    guards.close()
    assert sleepers() == []


def test_of_what_a_reward_says_little_is_kept(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    guards = guard(f"{file}:huge", workers=1, on_error="abstain")
    assert score(guards.functions[0], ["message", "list"]) == [None, None]
    guards.close()
    (message,) = caplog.messages
    assert message.endswith(f"ValueError: {'x' * 2000}...")


def test_what_cannot_be_read_back_fails_the_call_and_ends_it(file: Path) -> None:
    guards = guard(f"{file}:extra", isolate=True, on_error="abstain", timeout=3600.0)
    assert score(guards.functions[0], ["a"], log_extra=print) == [None]
    guards.close()


def test_the_pool_ends_a_job_on_an_exception_of_its_own(file: Path) -> None:
    guards = guard(f"{file}:reward", workers=1, on_error="abstain", timeout="5")
    assert score(guards.functions[0], ["a", "b"]) == [None, None]
    guards.close()


def test_a_generator_without_end_is_read_no_further_than_needed() -> None:
    taken: list[int] = []

    def endless() -> Iterator[float]:
        for number in itertools.count():
            taken.append(number)
            yield 1.0

    message = "returned more than 3 scores for 3 completions"
    assert judge(endless(), 3) == [Failure("error", message)] * 3
    assert len(taken) == 4


def test_a_log_without_end_is_read_no_further_than_needed() -> None:
    def reward(completions: list[str], log_extra: Any) -> list[float]:
        log_extra("column", itertools.count())
        return [1.0] * len(completions)

    call = Call({"completions": ["a", "b"]}, 2, ("log_extra",))
    assert perform(reward, call, run_to_end).extras == [("column", [0, 1, 2])]


def test_workers_import_nothing_from_the_working_directory(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for name in ("json", "psutil", "asyncio", "trl_deepseek"):
        (here / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend("")
    guards = guard(f"{file}:reward", workers=1)
    assert score(guards.functions[0], ["ok"]) == [1.0]
    guards.close()
    assert not (tmp_path / "ran").exists()


def test_stages_of_a_recipe_import_nothing_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "yaml.py").write_text("raise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path)
    launched = (
        "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'import yaml']))"
    )
    for program in ("import yaml", launched):
        assert stage_process.wait_for([sys.executable, "-c", program], {}) == (0, "")


@pytest.mark.parametrize("timeout", ["5", float("nan"), float("inf"), 0, -1.0, True])
def test_a_timeout_that_is_no_time_is_refused_at_registration(tmp_path: Path, timeout: Any) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from trl_deepseek import hookimpl\nnan, inf = float('nan'), float('inf')\n"
        "def mine(completion): return 1.0\n@hookimpl\ndef register_rewards(register):\n"
        f"    register('mine', mine, timeout={timeout!r})\n"
    )
    with pytest.raises(PluginError) as error:
        load_registry([str(plugin)])
    assert str(error.value) == (
        f"plugin 'mine': reward 'mine': timeout is {timeout!r}; it must be seconds above 0, or None"
    )


@pytest.mark.parametrize(
    "ending", ["import sys; sys.exit(0)", "raise SystemExit", "exit(0)", "import os; os._exit(0)"]
)
def test_a_plugin_that_ends_the_process_is_named(tmp_path: Path, ending: str) -> None:
    plugin = tmp_path / "ends.py"
    plugin.write_text(f"\n{ending}\n")
    with pytest.raises(PluginError) as error:
        load_registry([str(plugin)])
    assert str(error.value).startswith(f"plugin file {plugin}:2 does not load: SystemExit")
    assert str(error.value).endswith("\n  a plugin may not end the process")


def test_a_hook_that_ends_the_process_is_named_and_what_it_forks_may_end(tmp_path: Path) -> None:
    plugin = tmp_path / "ends.py"
    plugin.write_text(
        "import os\nfrom trl_deepseek import hookimpl\n"
        "@hookimpl\ndef register_rewards(register):\n"
        "    if os.fork() == 0: os._exit(7)\n"
        "    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    leave = os._exit
    with pytest.raises(PluginError) as error:
        load_registry([str(plugin)])
    assert str(error.value) == "plugin 'ends': register_rewards failed: SystemExit: os._exit(7)"
    assert os._exit is leave


def test_a_file_that_imports_its_neighbour_is_told_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "my_helpers.py").write_text("")
    plugin = tmp_path / "mine.py"
    plugin.write_text("import my_helpers\n")
    with pytest.raises(PluginError) as error:
        load_registry([str(plugin)])
    assert f"PYTHONPATH={tmp_path} and mine in place of {plugin}" in str(error.value)


def test_errors_name_the_plugin_whichever_registry_the_reward_came_from(tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from functools import partial\nfrom trl_deepseek import hookimpl\n"
        "def f(completion, x): return x\n@hookimpl\ndef register_rewards(register):\n"
        "    register('mine', partial(f, x=1.0))\n"
    )
    reward = load_registry([str(plugin)]).rewards["mine"]
    assert origin_of(reward, load_registry([str(plugin)])) == "plugin 'mine'"
    assert origin_of(reward, NOBODY) == str(plugin)


def test_objects_and_lambdas_of_a_file_are_named_as_they_were_written(file: Path) -> None:
    found = resolve([f"{file}:counts", f"{file}:squared"], NOBODY)
    assert [name_of(function) for function in found] == ["counts", "squared"]


def test_lambdas_are_numbered() -> None:
    found = resolve([lambda completion: 1.0, lambda completion: 0.0], NOBODY)
    assert [name_of(function) for function in found] == ["lambda", "lambda_2"]


def test_a_reward_that_may_remember_is_mentioned_where_workers_have_copies(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        guard(f"{file}:reward", workers=2).close()
        guard(f"{file}:counts", workers=1).close()
        assert caplog.messages == []
        guard(f"{file}:counts", workers=2).close()
        guard(f"{file}:remembers", workers=2).close()
    first, second = caplog.messages
    assert first.startswith("reward 'counts' is a Counts: each of the 2 worker processes has")
    assert second.startswith("reward 'remembers' assigns the global 'CALLS': each of the 2 worker")


def test_workers_without_number_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="reward_workers is 10000: it must be at least 0 and at most"
    ):
        GRPOConfig(output_dir=str(tmp_path), reward_workers=10000)


def test_a_hand_made_reward_is_checked_too() -> None:
    with pytest.raises(ValueError, match="isolate is 'no'; it must be True or False"):
        Reward("mine", len, isolate="no")  # type: ignore[arg-type]
