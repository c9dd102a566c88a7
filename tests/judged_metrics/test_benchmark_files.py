"""The metrics ``math`` and ``humaneval`` on rows of their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.errors import ConfigError, DataError
from trl_deepseek.sandbox import running as sandbox
from trl_deepseek.sources import import_file

MATH = {
    "problem": "What is $\\frac12+\\frac14$?",
    "level": "Level 1",
    "type": "Algebra",
    "solution": "A common denominator gives $\\frac24+\\frac14=\\boxed{\\frac34}$.",
}
GSM8K = {
    "question": "Two boxes of six eggs. How many eggs?",
    "answer": "There are 2*6=<<2*6=12>>12 eggs.\n#### 12",
}


@pytest.mark.parametrize(
    ("row", "right", "wrong"),
    [(MATH, "It is \\boxed{0.75}.", "\\boxed{3}"), (GSM8K, "\\boxed{12}", "so 13 eggs")],
    ids=["MATH", "GSM8K"],
)
def test_a_problem_is_asked_and_judged_as_math_accuracy_judges(
    row: dict[str, str], right: str, wrong: str, measure: Any
) -> None:
    evaluation = measure([row] * 4, "math", {"m": [right, wrong, right, right]})
    assert evaluation.estimates()["math"].value == 3 / 4
    asked = evaluation.samples[0]["prompt"]
    assert next(iter(row.values()))[:8] in asked
    assert "boxed" in asked
    assert "common denominator" not in asked
    assert "12 eggs." not in asked


def test_several_answers_give_pass_at_k(measure: Any) -> None:
    answers = [["\\boxed{12}", "1", "2", "3"], ["1", "2", "3", "4"]]
    found = measure([GSM8K] * 2, "math", {"m": answers}, {"k": [1, 2]}, samples=4).estimates()
    assert found["math/1"].value == 1 / 8
    # Two of four answers, of which one is right: three of the six pairs hold it.
    assert found["math/2"].value == pytest.approx((3 / 6 + 0) / 2)


def test_what_is_no_such_file_is_refused(measure: Any) -> None:
    with pytest.raises(DataError, match=r"metric 'math' cannot read row 0.*it needs 'problem'"):
        measure([{"text": "x"}], "math", {"m": ["x"]})
    with pytest.raises(DataError, match=r"'humaneval' cannot read row 0.*no column 'prompt'"):
        measure([{"text": "x"}], "humaneval", {"m": ["x"]})
    with pytest.raises(ConfigError, match="k is 2, and num_samples is 1"):
        measure([MATH], "math", {"m": ["x"]}, {"k": 2})
    with pytest.raises(ConfigError, match="k is 'two'; it must be a whole number"):
        measure([MATH], "math", {"m": ["x"]}, {"k": ["two"]})


needs_sandbox = pytest.mark.skipif(
    sandbox.unavailable() is not None, reason=f"no sandbox here: {sandbox.unavailable()}"
)
code: Any = import_file(Path(__file__).parents[1] / "rewards_library" / "test_human_eval.py")


@needs_sandbox
def test_rows_of_human_eval_are_asked_and_their_check_is_called(measure: Any) -> None:
    problems = code.PROBLEMS[:2]
    answers = {
        "canonical": [f"So:\n{code.fenced(p, p['canonical_solution'])}" for p in problems],
        "none": [code.fenced(p, "    return None\n") for p in problems],
    }
    evaluation = measure(problems, "humaneval", answers)
    values = [evaluation.estimates(name)["humaneval"].value for name in answers]
    assert values == [1.0, 0.0]
    asked = evaluation.samples[0]["prompt"]
    assert "Complete this function" in asked
    assert "has_close_elements" in asked


@needs_sandbox
@pytest.mark.matrix
def test_all_164_canonical_solutions_score_1_and_return_none_0(measure: Any) -> None:
    # Those that define different names run in one program: a sandbox starts slowly.
    rows, answers = [], {}
    for name, body in (("canonical", None), ("none", "    return None\n")):
        jobs = [
            code.in_one_module(group, [body or p["canonical_solution"] for p in group])
            for group in code.GROUPS
        ]
        answers[name] = [completion for completion, _ in jobs]
        rows = [{"prompt": "def f():", "test": tests, "entry_point": "f"} for _, tests in jobs]
    assert sum(len(row["test"]) for row in rows) == 164
    evaluation = measure(rows, "humaneval", answers)
    values = [evaluation.estimates(name)["humaneval"].value for name in answers]
    assert values == [1.0, 0.0]
