"""The metric ``win_rate``."""

from __future__ import annotations

import random
from typing import Any

import pytest

from trl_deepseek.errors import DataError, UserError

PROMPTS = [{"prompt": f"{i}+{i}?", "solution": str(2 * i)} for i in range(20)]
RIGHT = [row["solution"] for row in PROMPTS]
EXACT = {"judge": "exact_match"}
ASKED = {"endpoint": {"cache": None, "retries": 0}}


def test_of_a_model_against_itself_it_is_one_half_for_sure(measure: Any) -> None:
    found = measure(PROMPTS, "win_rate", {"a": RIGHT, "a (2)": RIGHT}, EXACT).estimates("a (2)")
    assert (found["win_rate"].value, found["win_rate"].count) == (0.5, 20)
    assert found["win_rate/ties"].value == 1.0


def test_of_two_runs_of_one_model_one_half_lies_within_its_interval(measure: Any) -> None:
    chance = random.Random(0)
    answers = {
        name: [said if chance.random() < 0.5 else "wrong" for said in RIGHT] for name in "ab"
    }
    found = measure(PROMPTS, "win_rate", answers, EXACT).estimates("b")["win_rate"]
    assert found.low < 0.5 < found.high


def test_the_higher_score_wins_against_the_first_model(measure: Any) -> None:
    worse = ["wrong"] * 5 + RIGHT[5:]
    evaluation = measure(PROMPTS, "win_rate", {"base": worse, "tuned": RIGHT}, EXACT)
    assert evaluation.estimates("base")["win_rate"].value == 0.5
    tuned = evaluation.estimates("tuned")
    assert tuned["win_rate"].value == (5 + 15 / 2) / 20
    assert tuned["win_rate/ties"].value == 15 / 20
    assert "win_rate/position_bias" not in tuned


def test_one_model_alone_is_refused_rather_than_one_half(measure: Any) -> None:
    with pytest.raises(UserError, match=r"first of the models, and there is one alone\n  name"):
        measure(PROMPTS, "win_rate", {"base": RIGHT}, EXACT)


def test_it_compares_with_the_answers_of_demonstrations(measure: Any) -> None:
    rows = [{**row, "completion": said} for row, said in zip(PROMPTS, RIGHT, strict=True)]
    answers = ["wrong"] * 4 + RIGHT[4:]
    options = {**EXACT, "against": "reference"}
    found = measure(rows, "win_rate", {"a": answers}, options).estimates()
    assert found["win_rate"].value == 16 / 2 / 20
    texts = [{"text": "no question"}]
    with pytest.raises(DataError, match="compares with known answers, which"):
        measure(texts, "win_rate", {"a": [""]}, options)


def test_a_judge_is_asked_in_both_orders_and_its_bias_is_told(measure: Any, server: Any) -> None:
    server.answer = lambda request, number: server.said("Verdict: A")
    answers = {"a": ["one"] * 20, "b": ["two"] * 20}
    found = measure(PROMPTS, "win_rate", answers, ASKED).estimates("b")
    assert {label: estimate.value for label, estimate in found.items()} == {
        "win_rate": 0.5,
        "win_rate/ties": 1.0,
        "win_rate/position_bias": 1.0,
    }
    assert len(server.requests) == 2 * 20


def test_the_judge_sees_no_reasoning_and_the_reference_where_models_compete(
    measure: Any, server: Any
) -> None:
    server.answer = lambda request, number: server.said("Verdict: tie")
    rows = [{"prompt": "why?", "reference": "known"}]
    measure(rows, "win_rate", {"a": ["<think>hidden</think>x"], "b": ["y"]}, ASKED)
    shown = server.requests[0]["messages"][1]["content"]
    assert "why?" in shown
    assert "known" in shown
    assert "hidden" not in shown


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({**EXACT, "against": "base"}, "against is 'base'; it must be one of first, reference"),
        ({"judge": "exact_mach"}, "did you mean 'exact_match'"),
        ({"judge": "cosine_length"}, "'cosine_length' counts tokens"),
        ({**EXACT, "endpoint": {"model": "x"}}, "endpoint is for a judge that is asked"),
        ({}, "needs a model: set TRL_DEEPSEEK_JUDGE_MODEL"),
        ({"endpoint": {"modell": "x"}}, "endpoint has no option 'modell' .did you mean 'model'"),
        ({"endpoint": {"model": "x", "api_key": "k"}}, "the key stands in the environment"),
        ({"endpoint": {"model": "x", "seconds": 0}}, "seconds is 0; it must be above 0"),
        ({"endpoint": {"model": "x", "retries": 1.5}}, "retries is 1.5; it must be a whole number"),
    ],
)
def test_wrong_options_are_refused_before_a_model_answers(
    options: dict[str, Any], message: str, measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openai", reason="the extra 'judge' is not installed")
    monkeypatch.delenv("TRL_DEEPSEEK_JUDGE_MODEL", raising=False)
    with pytest.raises(UserError, match=message):
        measure(PROMPTS, "win_rate", {}, options)
