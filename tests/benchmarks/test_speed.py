"""``make bench``: the two sides of a row do the same work, and the table says what was measured."""

from __future__ import annotations

import math
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
    stock, ours = row["seconds"]["clock"]
    assert speed.table([row]).splitlines()[-1].startswith(f"| {name} | {stock:.2f} s")
    assert row["seconds"]["processor"][0] > 0 < ours


def test_the_interval_of_few_rounds_is_students(speed: Any) -> None:
    # the t distribution of two degrees of freedom: 4.303 at 97.5 %, from a printed table
    rounds = [2.0, 3.0, 4.5]  # logarithms log 3 and log 1.5 less and more
    error = math.log(1.5) / math.sqrt(3)
    faster, low, high = speed.mean_ratio(rounds)
    assert faster == pytest.approx(3)
    assert low == pytest.approx(3 * math.exp(-4.303 * error), rel=1e-3)
    assert high == pytest.approx(3 * math.exp(4.303 * error), rel=1e-3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--only reward dop", "no work begins with 'dop'"),
        ("--rounds 0", "--rounds: 0 is less than 1"),
        ("--threads 0", "--threads: 0 is less than 1"),
        ("--vocabulary 512", "--vocabulary: 512 is less than 1024"),
        ("--write nowhere/speed", "--write: there is no folder nowhere"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_measured(
    speed: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    said: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["speed.py", *words.split()])
    with pytest.raises(SystemExit, match="2"):
        speed.main()
    assert said in capsys.readouterr().err
