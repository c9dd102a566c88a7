from __future__ import annotations

from typing import Any

import pytest

from trl_deepseek_plugins.rewards.match import multiple_choice, numeric_match


def as_messages(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize("wrap", [str, as_messages], ids=["strings", "messages"])
@pytest.mark.parametrize(
    ("completion", "solution", "score"),
    [
        ("72", "72", 1.0),
        ("72", 72, 1.0),
        ("72.0", 72, 1.0),
        ("The total is $1,234.50.", "1234.5", 1.0),
        ("It costs €-3", "-3", 1.0),
        ("It costs -€3", "-3", 1.0),
        ("−5", "-5", 1.0),
        ("so 3 apples and 4 pears: 7", "7", 1.0),
        ("7 (that is 3 and 4)", "7", 0.0),
        (r"\boxed{7}, not 8", "7", 1.0),
        (r"\boxed{1{,}000}", "1000", 1.0),
        ("1/3", "0.3333333333", 1.0),
        ("1/0", "1", 0.0),
        ("6.02e23", "6.02E+23", 1.0),
        (".5", "0.5", 1.0),
        ("0.1 + 0.2 is 0.30000000000000004", 0.3, 1.0),
        ("0.31", 0.3, 0.0),
        ("no number", "7", 0.0),
        ("version2", "2", 0.0),
        ("7", "#### 7", 1.0),
        ("7", "none", None),
        ("7", None, None),
        ("", "7", 0.0),
        ("<think>8</think>7", "7", 1.0),
        ("<think>7", "7", 0.0),
    ],
)
def test_numeric_match_reads_the_last_number(
    wrap: Any, completion: str, solution: Any, score: float | None
) -> None:
    assert numeric_match([wrap(completion)], [solution]) == [score]


def test_numeric_match_takes_a_tolerance() -> None:
    assert numeric_match(["3.14", "3.2"], ["3.14159"] * 2, relative=1e-3) == [1.0, 0.0]
    assert numeric_match(["0.01"], [0], absolute=0.1) == [1.0]


@pytest.mark.parametrize("wrap", [str, as_messages], ids=["strings", "messages"])
@pytest.mark.parametrize(
    ("completion", "chosen"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("**B.**", "B"),
        ("B. Paris", "B"),
        ("B) Paris", "B"),
        (r"\boxed{B}", "B"),
        (r"\boxed{\text{B}}", "B"),
        (r"I first said A. \boxed{(B)}", "B"),
        ("The answer is B.", "B"),
        ("The answer is: (B), since A is wrong", "B"),
        ("answer is A... no, the answer is **B**", "B"),
        ("**Answer:** B", "B"),
        ("Answer: **B**", "B"),
        ("答案是B。", "B"),
        ("所以选 B", "B"),
        ("the answer is a city", None),
        ("A or B", None),
        ("Because of Berlin", None),
        ("", None),
        ("<think>The answer is A</think>The answer is B", "B"),
        ("<think>The answer is B", None),
        (r"\boxed{Berlin}", None),
    ],
)
def test_multiple_choice_finds_the_letter(wrap: Any, completion: str, chosen: str | None) -> None:
    for letter in "AB":
        expected = float(letter == chosen)
        assert multiple_choice([wrap(completion)], [letter]) == [expected]
        assert multiple_choice([wrap(completion)], [f"({letter.lower()})"]) == [expected]


def test_multiple_choice_abstains_without_a_solution_and_refuses_a_number() -> None:
    assert multiple_choice(["B", "B"], [None, " "]) == [None, None]
    with pytest.raises(ValueError, match="is a letter, not '1'"):
        multiple_choice(["B"], [1])
