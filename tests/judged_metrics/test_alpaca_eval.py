"""The metric ``alpaca_eval``, and its length control against ``alpaca-eval``'s own."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("sklearn", reason="the extra 'alpaca-eval' is not installed")

import numpy as np
import pandas as pd

from trl_deepseek.errors import UserError
from trl_deepseek_plugins.metrics.alpaca_eval import length_control

COUNT = 40


@pytest.fixture(scope="module")
def gamed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Made baseline data, with the columns of AlpacaEval's ``df_gamed.csv``."""
    chance = np.random.default_rng(0)
    difficulty = chance.normal(size=COUNT)
    rows = []
    for model, middle in (("gamed_concise", -1), ("gamed_verbose", 1)):
        for index in range(COUNT):
            delta = chance.normal(middle)
            rows.append(
                {
                    "model": model,
                    "index": index,
                    "preference": 1 / (1 + np.exp(-delta - 0.3 * chance.normal())),
                    "std_delta_len": delta,
                    "instruction_difficulty": difficulty[index],
                    "not_gamed_baseline": False,
                }
            )
    file = tmp_path_factory.mktemp("baseline") / "df_gamed.csv"
    pd.DataFrame(rows).to_csv(file, index=False)
    return str(file)


def annotated(seed: int) -> list[dict[str, Any]]:
    """Preferences that favour length, for the model (output_2) and against."""
    chance = random.Random(seed)
    rows = []
    for index in range(COUNT):
        base, own = chance.randint(20, 400), chance.randint(20, 400)
        liking = 1 / (1 + np.exp(-(0.3 + 0.008 * (own - base) + chance.gauss(0, 1))))
        rows.append(
            {
                "index": index,
                "instruction": f"Do thing {index}.",
                "output_1": "x" * base,
                "output_2": "y" * own,
                "generator_1": "baseline",
                "generator_2": "model",
                "annotator": "judge",
                "preference": 1 + round(liking, 3) if index % 7 else 1.5,
            }
        )
    return rows


@pytest.fixture(scope="module")
def theirs(gamed: str) -> Any:
    """``alpaca-eval``'s function, with the baseline data from a file instead of the hub."""
    with pytest.MonkeyPatch.context() as patch:
        # setuptools has not had this for a while; only what it never calls here needs it.
        patch.setitem(sys.modules, "pkg_resources", ModuleType("pkg_resources"))
        module = pytest.importorskip("alpaca_eval.metrics.glm_winrate")
        patch.setattr(module, "hf_hub_download", lambda **_: gamed)
        yield lambda rows, name: module.get_length_controlled_winrate(
            pd.DataFrame(rows), glm_name=name, save_weights_dir=None
        )


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", ["length_controlled_v1", "length_controlled_minimal"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_length_controlled_win_rate_is_alpaca_evals(
    seed: int, name: str, theirs: Any, gamed: str, measure: Any, tmp_path: Path
) -> None:
    rows = annotated(seed)
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    outputs = [
        {"instruction": r["instruction"], "output": r["output_1"], "generator": "baseline"}
        for r in rows
    ]
    options = {
        "annotations": str(tmp_path / "annotations.json"),
        "baseline_data": gamed if name == "length_controlled_v1" else None,
    }
    answers = {"m": [r["output_2"] for r in rows]}
    found = measure(outputs, "alpaca_eval", answers, options).estimates()
    expected = theirs(rows, name)
    assert 100 * found["alpaca_eval"].value == pytest.approx(expected["win_rate"], abs=1e-9)
    controlled = 100 * found["alpaca_eval/length_controlled"].value
    assert controlled == pytest.approx(expected["length_controlled_winrate"], abs=1e-9)
    assert abs(controlled - expected["win_rate"]) > 0.1  # the control does something


def test_longer_answers_that_win_by_length_alone_are_worth_one_half() -> None:
    lengths, others = [400] * 30 + [100] * 30, [100] * 30 + [400] * 30
    preferences = [1.0 if a > b else 0.0 for a, b in zip(lengths, others, strict=True)]
    found = length_control.at_equal_length(preferences, lengths, others)
    assert found == pytest.approx([0.5] * 60, abs=1e-3)


def test_answers_of_one_length_have_nothing_to_control() -> None:
    found = length_control.at_equal_length([1.0, 1.0, 1.0, 0.0] * 3, [10] * 12, [10] * 12)
    assert len(set(found)) == 1
    assert 0.5 < found[0] <= 0.75  # the penalty draws towards a half


def test_a_judge_is_asked_in_both_orders(measure: Any, server: Any) -> None:
    server.answer = lambda request, number: server.said("Verdict: A")
    rows = [{"instruction": f"Do {i}.", "output": f"{'base ' * i}done"} for i in range(6)]
    options = {"endpoint": {"cache": None}}
    answers = {"m": [f"own {i}" for i in range(5)] + [rows[5]["output"]]}
    found = measure(rows, "alpaca_eval", answers, options).estimates()
    assert found["alpaca_eval"].value == 0.5
    assert found["alpaca_eval/position_bias"].value == pytest.approx(5 / 6)
    assert len(server.requests) == 2 * 5  # equal answers are a tie unasked


def test_too_few_rows_for_the_fit_are_said(
    measure: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = annotated(0)[:4]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    outputs = [{"instruction": r["instruction"], "output": r["output_1"]} for r in rows]
    options = {"annotations": str(tmp_path / "annotations.json")}
    answers = {"m": [r["output_2"] for r in rows]}
    found = measure(outputs, "alpaca_eval", answers, options).estimates()
    assert set(found) == {"alpaca_eval"}
    assert "needs 5 judged rows: there are 4" in caplog.text


def test_what_cannot_be_measured_is_refused(
    measure: Any, gamed: str, tmp_path: Path, server: Any
) -> None:
    rows = annotated(0)
    outputs = [{"instruction": r["instruction"], "output": r["output_1"]} for r in rows]
    answers = {"m": [r["output_2"] for r in rows]}
    file = tmp_path / "annotations.json"

    def refused(message: str, outputs: Any = outputs, answers: Any = answers, **options: Any):  # type: ignore[no-untyped-def]
        with pytest.raises(UserError, match=message):
            measure(outputs, "alpaca_eval", answers, options)

    refused("a file cannot be read.*nowhere.json", annotations=str(tmp_path / "nowhere.json"))
    file.write_text("{}")
    refused("must hold a list of annotations", annotations=str(file))
    file.write_text(json.dumps([{**rows[0], "preference": 3}]))
    refused("preference is 3; it must be from 1", annotations=str(file))
    file.write_text(json.dumps([{"instruction": "x", "output": "y"}]))
    refused("annotation 0 of .* has no 'output_1' .did you mean", annotations=str(file))
    file.write_text(json.dumps(rows))
    refused("has other answers to", answers={"m": ["new"] * COUNT}, annotations=str(file))
    refused("endpoint is for a judge", annotations=str(file), endpoint={"retries": 1})
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("a,b\n1,2\n")
    refused("has no column 'index'", annotations=str(file), baseline_data=str(wrong))
    refused(
        "knows no instruction 99",
        outputs=[{**row, "index": 99} for row in outputs],
        annotations=str(file),
        baseline_data=gamed,
    )
    refused("cannot read row 0 of .*: it has no column 'instruction'", [{"text": "x"}], {"m": [""]})
