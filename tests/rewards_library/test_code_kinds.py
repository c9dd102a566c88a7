"""Rows of every format of tests, right, wrong and deceiving, with scores that were set by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.sandbox import running as sandbox
from trl_deepseek_plugins.rewards.code import code_tests
from trl_deepseek_plugins.rewards.code.formats import check_tests

ROWS: list[dict[str, Any]] = [
    json.loads(line)
    for line in Path(__file__).with_name("code_kinds.jsonl").read_text().splitlines()
]
REFUSED = [row for row in ROWS if row["expected"] == "refused"]
RUN = [row for row in ROWS if row["expected"] != "refused"]

needs_sandbox = pytest.mark.skipif(sandbox.unavailable() is not None, reason="no sandbox here")


def wrongly_scored(rows: list[dict[str, Any]]) -> list[tuple[str, Any, Any]]:
    names = sorted({name for row in rows for name in row["columns"]})
    columns: dict[str, Any] = {name: [row["columns"].get(name) for row in rows] for name in names}
    prompts = [row.get("prompt") for row in rows]
    completions = [row["completion"] for row in rows]
    scores = code_tests(completions, prompts=prompts, seconds=5.0, **columns)
    found = []
    for row, score in zip(rows, scores, strict=True):
        expected = row["expected"]
        right = score is not None and (
            score < 1 if expected == "less" else score == pytest.approx(expected)
        )
        if not right:
            found.append((row["name"], expected, score))
    return found


@needs_sandbox
def test_every_kind_scores_as_set_by_hand() -> None:
    assert wrongly_scored([row for row in RUN if "matrix" not in row]) == []


@pytest.mark.matrix
@needs_sandbox
def test_every_row_scores_as_set_by_hand() -> None:
    assert wrongly_scored([row for row in RUN if "matrix" in row]) == []


def test_tests_that_can_be_run_are_not_refused() -> None:
    assert {row["name"]: check_tests(row["columns"]) for row in RUN} == {
        row["name"]: None for row in RUN
    }


@pytest.mark.parametrize("row", REFUSED, ids=[row["name"] for row in REFUSED])
def test_tests_that_test_nothing_are_refused(row: dict[str, Any]) -> None:
    fault = check_tests(row["columns"])
    assert fault is not None or not row["columns"]["tests"].strip("[{}]")
