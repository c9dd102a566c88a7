from __future__ import annotations

import pytest

from trl_deepseek.rollouts.table import show


def test_the_table_shows_the_best_and_the_worst_completion_with_their_scores(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    show(
        12,
        prompts=[[{"role": "user", "content": "1+1"}]] * 3,
        completions=[[{"role": "assistant", "content": text}] for text in ("two", "[b]2[/b]", "x")],
        scores={"exact": [0.25, 1.0, float("nan")]},
        advantages=[0.1, 1.5, -1.6],
    )
    printed = capsys.readouterr().err
    assert "completions at step 12: the best and the worst" in printed
    rows = [line.strip("│").split("│") for line in printed.splitlines() if "1+1" in line]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["1+1", "[b]2[/b]", "1", "1.5"],
        ["1+1", "x", "-", "-1.6"],
    ]
