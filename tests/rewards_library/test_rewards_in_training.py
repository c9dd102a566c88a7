"""The whole library in one step of GRPO, in worker processes, and a replay of what it saved."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek import testing
from trl_deepseek.cli.main import main
from trl_deepseek.errors import ConfigError
from trl_deepseek.sandbox import running as sandbox

NAMES = [
    *("math_accuracy", "exact_match", "numeric_match", "think_format", "answer_format"),
    *("tag_count", "boxed_format", "json_format", "language_consistency", "soft_overlong"),
    *("cosine_length", "length_penalty", "repetition_penalty"),
]
ROWS = [
    {"prompt": [{"role": "user", "content": f"{i}+{i}="}], "solution": str(2 * i), "tests": "[]"}
    for i in range(4)
]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_every_reward_trains_and_what_was_saved_can_be_replayed(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = list(NAMES)
    if sandbox.unavailable() is None:
        names.append("code_tests")
    log = testing.one_step(names, tmp_path, ROWS, reward_workers=workers)
    for name in names:
        assert f"rewards/{name}/mean" in log
        assert log[f"rewards/{name}/errors"] == log[f"rewards/{name}/timeouts"] == 0.0
    assert math.isfinite(log["loss"])
    if "code_tests" in names:
        assert log["rewards/code_tests/abstained"] == 4.0  # no tests in any row
        record = json.loads((tmp_path / "generated_code.json").read_text())
        assert record == {"runs": "bubblewrap"}
    capsys.readouterr()
    assert main(["rewards", "replay", str(tmp_path), "--reward_funcs", *NAMES[:3], "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["samples"] == 4
    for reward in report["rewards"][:3]:
        assert reward["mean"] == pytest.approx(log[f"rewards/{reward['name']}/mean"])


def test_code_needs_a_sandbox_or_leave_and_the_run_says_how_it_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "unavailable", lambda: "bwrap is missing")
    with pytest.raises(ConfigError, match="generated code needs a sandbox"):
        testing.one_step("code_tests", tmp_path, ROWS)
    assert not (tmp_path / "generated_code.json").exists()
    log = testing.one_step("code_tests", tmp_path, ROWS, allow_unsandboxed_code=True)
    assert log["rewards/code_tests/abstained"] == 4.0
    assert json.loads((tmp_path / "generated_code.json").read_text()) == {"runs": "unsandboxed"}
