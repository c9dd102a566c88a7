"""Rewards without what Linux alone has: bubblewrap, seccomp, memfd, prctl, /proc, limits."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.workers import pool

# Read by this Python and by every worker, before anything else; psutil has its own way to look at
# processes on each system, and keeps it here.
ABSENT = """
import collections, ctypes, os, pathlib, psutil, resource
del os.memfd_create
class Library(ctypes.CDLL):
    def __getattr__(self, name):
        if name in ("prctl", "seccomp"):
            raise AttributeError(name)
        return super().__getattr__(name)
ctypes.CDLL = Library
set_limit, statvfs, iterdir = resource.setrlimit, os.statvfs, pathlib.Path.iterdir
def setrlimit(which, limits):
    if which in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
        raise ValueError("current limit exceeds maximum limit")
    set_limit(which, limits)
resource.setrlimit = setrlimit
def hidden(function):
    def call(path, *rest):
        if str(path).startswith("/proc"):
            raise FileNotFoundError(path)
        return function(path, *rest)
    return call
os.statvfs, pathlib.Path.iterdir = hidden(statvfs), hidden(iterdir)
Memory = collections.namedtuple("Memory", "rss vms uss")
psutil.Process.memory_full_info = lambda process: Memory(*process.memory_info()[:2], 0)
"""
REWARDS = """
import asyncio, json, os, sys, time

def judge(completion):
    if completion == "hangs":
        time.sleep(3600)
    if completion == "crashes":
        os.abort()
    return 1.0

if __name__ == "__main__":
    from trl_deepseek.registry import Registry
    from trl_deepseek.rewards import resolve
    from trl_deepseek.rewards.contract import Settings
    from trl_deepseek.rewards.placing import Guards

    nobody = Registry([])
    settings = Settings(workers=2, timeout=1.0, on_error="abstain")
    guards = Guards(resolve(__file__ + ":judge", nobody), nobody, settings)
    said = ["fine", "hangs", "crashes", "well"]
    scores = asyncio.run(
        guards.functions[0](prompts=["p"] * 4, completions=said, completion_ids=[[1]] * 4)
    )
    guards.close()
    print(json.dumps(scores))
"""
ROWS = [
    {"completion": r"\boxed{2}", "solution": "2"},
    {"completion": "wrong", "solution": "2"},
]
PROGRAM = {
    "completion": "```python\nprint(int(input()) + 1)\n```",
    "tests": [{"input": "1\n", "output": "2\n"}],
}


def python(folder: Path, *words: str) -> Any:
    (folder / "sitecustomize.py").write_text(ABSENT)
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PATH": "/nonexistent", "PYTHONPATH": str(folder)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def tried(folder: Path, rows: list[dict[str, Any]], *words: str) -> Any:
    data = folder / "rows.jsonl"
    data.write_text("\n".join(json.dumps({"prompt": "p", **row}) for row in rows))
    command = ["-m", "trl_deepseek", "rewards", "test", *words, "--data", str(data), "--json"]
    return python(folder, *command)


EVERY_MODULE = """
import importlib, pkgutil, trl_deepseek, trl_deepseek_plugins
for package in (trl_deepseek, trl_deepseek_plugins):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__") and ".inside" not in module.name:
            importlib.import_module(module.name)
print("imported")
"""


@pytest.mark.slow
def test_every_module_is_imported_there(tmp_path: Path) -> None:
    done = python(tmp_path, "-c", EVERY_MODULE)
    assert (done.returncode, done.stdout) == (0, "imported\n"), done.stderr


def test_a_reward_that_hangs_or_crashes_costs_its_own_sample_there_too(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REWARDS)
    done = python(tmp_path, "mine.py")
    assert (done.returncode, done.stdout) == (0, "[1.0, null, null, 1.0]\n"), done.stderr


def test_generated_code_is_refused_there_by_name_and_runs_where_that_was_allowed(
    tmp_path: Path,
) -> None:
    refused = tried(tmp_path, [PROGRAM], "code_tests")
    assert refused.returncode == 2
    assert "the program bwrap (bubblewrap) is not installed" in refused.stderr
    done = tried(tmp_path, [PROGRAM], "code_tests", "--allow_unsandboxed_code")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rewards"][0]["mean"] == 1.0


def test_answers_are_checked_there_within_a_time_limit(tmp_path: Path) -> None:
    done = tried(tmp_path, ROWS, "exact_match", "math_accuracy")
    assert done.returncode == 0, done.stderr
    assert [each["mean"] for each in json.loads(done.stdout)["rewards"]] == [0.5, 0.5]


def test_that_memory_is_not_limited_there_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with caplog.at_level(logging.WARNING):
        pool.Pool(0, 1 << 30)
    assert caplog.messages == [
        "the memory of reward workers is not limited here: only Linux does it"
    ]
