"""Rows of answers with code and the scores that were set by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.sandbox import running as sandbox
from trl_deepseek_plugins.rewards.code import code_tests

ROWS: list[dict[str, Any]] = [
    json.loads(line)
    for line in Path(__file__).with_name("code_cases.jsonl").read_text().splitlines()
]


@pytest.mark.skipif(sandbox.unavailable() is not None, reason="no sandbox here")
def test_every_row_scores_as_set_by_hand() -> None:
    scores = code_tests(
        [row["completion"] for row in ROWS], [row["columns"]["tests"] for row in ROWS]
    )
    found = dict(zip((row["name"] for row in ROWS), scores, strict=True))
    assert found == {row["name"]: row["expected"] for row in ROWS}
