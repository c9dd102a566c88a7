"""The metrics against their libraries and papers, on fixed answers."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import sacrebleu
from rouge_score import rouge_scorer

from trl_deepseek import load_registry

METRICS = load_registry().metrics
SAID = ["the cat sat on the mat", "a dog barked loudly at night", "", "nothing alike"]
KNOWN = ["the cat sat on a mat", "the dog barked at night", "an answer", "something else"]


def totals(rows: list[Any]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows if row is not None) for name in rows[0]}


@pytest.mark.parametrize("tokenize", [None, "char"])
def test_bleu_is_sacrebleus_over_all_answers(tokenize: str | None) -> None:
    metric = METRICS["bleu"]
    assert metric.aggregate is not None
    rows = metric(completions=SAID, reference=KNOWN, tokenize=tokenize)
    expected = sacrebleu.corpus_bleu(SAID, [KNOWN], tokenize=tokenize or "13a")
    assert metric.aggregate(totals(rows)) == pytest.approx(expected.score)


def test_bleu_takes_several_references() -> None:
    metric = METRICS["bleu"]
    assert metric.aggregate is not None
    both = [[a, b] for a, b in zip(KNOWN, reversed(KNOWN), strict=True)]
    rows = metric(completions=SAID, reference=both)
    expected = sacrebleu.corpus_bleu(SAID, [KNOWN, KNOWN[::-1]])
    assert metric.aggregate(totals(rows)) == pytest.approx(expected.score)


def test_rouge_is_that_of_rouge_score() -> None:
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    expected = [
        {name: score.fmeasure for name, score in scorer.score(known, said).items()}
        for said, known in zip(SAID, KNOWN, strict=True)
    ]
    assert METRICS["rouge"](completions=SAID, reference=KNOWN) == expected


def test_the_answer_is_compared_without_its_reasoning() -> None:
    said = [[{"role": "assistant", "content": "<think>\nhm\n</think>\n\nthe cat sat"}]]
    found = METRICS["rouge"](completions=said, reference=["the cat sat"])
    assert found[0]["rougeL"] == 1.0


def test_a_row_without_a_reference_abstains() -> None:
    for name in ("bleu", "rouge"):
        assert METRICS[name](completions=["a", "b"], reference=["a", None])[1] is None


@pytest.mark.parametrize("right", range(6))
def test_pass_at_k_is_the_published_formula(right: int) -> None:
    scores = [1.0] * right + [0.0] * (5 - right)
    for k in range(1, 6):
        expected = 1 - math.comb(5 - right, k) / math.comb(5, k)
        assert METRICS["pass_at_k"](scores=scores, k=k) == pytest.approx(expected)


@pytest.mark.parametrize("threshold", ["high", None, True])
@pytest.mark.parametrize("name", ["pass_at_k", "maj_at_k"])
def test_a_threshold_that_is_no_number_is_refused_beforehand(name: str, threshold: Any) -> None:
    check = METRICS[name].check
    assert check is not None
    told = check({"k": 1, "threshold": threshold}, 1)
    assert told == f"threshold is {threshold!r}; it must be a number"


def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer() -> None:
    scores = [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    subsets = list(itertools.combinations(scores, 3))
    expected = sum(max(each) for each in subsets) / len(subsets)
    found = METRICS["pass_at_k"](scores=scores, k=[1, 3])
    assert found == pytest.approx({"1": 2 / 6, "3": expected})


def test_answers_that_the_judge_abstains_from_do_not_count() -> None:
    assert METRICS["pass_at_k"](scores=[1.0, None, 0.0], k=1) == 0.5
    assert METRICS["pass_at_k"](scores=[1.0, None, 0.0], k=3) is None


def test_maj_at_k_is_whether_the_most_frequent_answer_is_right() -> None:
    answers = ["7", "8", "8", "\\boxed{8}", "7", "9"]
    scores = [float(answer == "7") for answer in answers]
    assert Counter(a.strip("\\boxed{}") for a in answers).most_common(1)[0][0] == "8"
    assert METRICS["maj_at_k"](completions=answers, scores=scores) == 0.0
    # 7 8 8 | \boxed{8} 7 9: the second vote is a tie of three, of which one is right
    assert METRICS["maj_at_k"](completions=answers, scores=scores, k=3) == pytest.approx(1 / 6)


@pytest.mark.parametrize("k", [0, -1, 2.5, True, [1, 9], []])
def test_a_k_that_cannot_be_is_refused(k: Any) -> None:
    check = METRICS["pass_at_k"].check
    assert check is not None
    assert check({"k": k}, 8)
    assert check({"k": [1, 8]}, 8) is None
