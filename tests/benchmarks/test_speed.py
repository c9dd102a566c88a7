"""``make bench``: the two sides of a row do the same work, and the table says what was measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
WITH_LOSSES = (
    "dpo P=128 C=256",
    "ipo P=512 C=64",
    "orpo P=512 C=64",
    "simpo P=512 C=64",
    "kto P=512 C=64",
    "reward P=512 C=64",
    "sft packed 64..512",
    "grpo update P=256 C=32",
)
FEW = ("reward P=512 C=64", "grpo update P=256 C=32")


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The script, which imports its neighbours as a script does."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import speed  # type: ignore[import-not-found]

    yield speed
    for name in ("speed", "works", "stock_trl", "log_probs"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in FEW else pytest.mark.matrix) for n in WITH_LOSSES],
)
def test_both_sides_of_a_row_have_the_same_loss(speed: Any, name: str) -> None:
    row = speed.compare(name, rounds=1, layers=1, vocabulary=1024)
    # TRL's ORPO and CPO put the token that begins a text in front of the prompt
    bound = 1e-3 if name.startswith(("orpo", "simpo")) else 1e-5
    assert row["losses"][0] == pytest.approx(row["losses"][1], rel=bound)
    table = speed.table([row]).splitlines()
    assert table[-1].startswith(f"| {name} | {row['trl_seconds']:.2f} s")
    assert row["trl_seconds"] > 0 < row["ours_seconds"]
