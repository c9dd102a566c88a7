"""The soak of ``scripts/soak.py``, short: its verdict, and a few steps of the real thing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.sources import import_file

soak: Any = import_file(Path(__file__).parents[2] / "scripts" / "soak.py")
ROW = soak.Held(10, 400.0, 50.0, 13, 17, 4, 0, 1)
TABLE = [replace(ROW, step=step) for step in range(10, 110, 10)]
LAST = replace(ROW, step=100, workers=0.0, children=0)


def test_a_flat_run_is_flat() -> None:
    assert soak.verdict(TABLE, LAST) == []


@pytest.mark.parametrize(
    ("grown", "said"),
    [
        ({"trainer": 480.0}, "memory of the trainer grew from 400 to 480 MiB"),
        ({"workers": 60.0}, "memory of the workers grew from 50 to 60 MiB"),
        ({"descriptors": 26}, "descriptors grew from 13 to 26"),
        ({"threads": 26}, "threads grew from 17 to 26"),
        ({"children": 35}, "children grew from 4 to 35"),
    ],
)
def test_what_grows_is_named(grown: dict[str, Any], said: str) -> None:
    assert soak.verdict([*TABLE[:-1], replace(TABLE[-1], **grown)], LAST) == [said]


def test_what_is_left_is_named() -> None:
    last = replace(LAST, children=2, strays=31, files=4)
    assert soak.verdict(TABLE, last) == [
        "2 processes outlived the rewards",
        "31 processes that rewards started outlived them",
        "3 files are left in the temporary folder",
    ]


def test_a_few_steps_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOAK_SHARE", "0.2")  # so that each fails as often as else in forty steps
    before = soak.held(0, tmp_path)
    table, last, failed = soak.soak(2, 1, tmp_path / "run", tmp_path / "none")
    assert failed
    assert len(table) == 2
    assert (last.children, last.strays) == (before.children, 0)
    assert last.descriptors <= before.descriptors + soak.SLACK
