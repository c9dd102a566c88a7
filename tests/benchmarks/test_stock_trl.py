"""``benchmarks/stock_trl.py``: taking turns changes nothing of what either run trains."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trl

import trl_deepseek

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def stock_trl(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import stock_trl  # type: ignore[import-not-found]

    yield stock_trl
    sys.modules.pop("stock_trl", None)


def test_two_runs_that_take_turns_have_the_losses_of_one_alone(
    stock_trl: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    turns: list[int] = []
    begin = stock_trl.Steps.on_step_begin

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        turns.append(self.run)

    monkeypatch.setattr(stock_trl.Steps, "on_step_begin", noted)
    rows = stock_trl.rows()
    alone = stock_trl.prepared(trl, "GRPO", rows, 3, str(tmp_path))
    alone.train()
    expected = [row["loss"] for row in alone.state.log_history if "loss" in row]
    runs = stock_trl.train((trl_deepseek, trl), "GRPO", rows, 3)
    assert [run.losses for run in runs] == [expected, expected]
    assert turns == [0, 1] * 3
    assert all(len(run.clock) == len(run.processor) == 3 for run in runs)
    assert len(set(expected)) == 3
