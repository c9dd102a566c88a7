"""Rows of answers with scores set by hand, in the formats that people and models write."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek import load_registry
from trl_deepseek.plugin_kit.tricks import LETTERS, NUMBERS, Trick

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("*.jsonl"))
NUMERIC = ("exact_match", "numeric_match", "math_accuracy", "cosine_length", "length_penalty")


def rows(file: Path) -> Iterator[dict[str, Any]]:
    yield from map(json.loads, file.read_text().splitlines())


def scores(name: str, samples: list[dict[str, Any]]) -> list[float | None]:
    """Each row by itself where its prefix differs, together otherwise."""
    reward = load_registry().rewards[name]
    columns = {key: [row["columns"][key] for row in samples] for key in samples[0]["columns"]}
    prefixes = {row.get("generation_prefix") for row in samples}
    assert len(prefixes) == 1
    return list(
        reward(
            completions=[row["completion"] for row in samples],
            generation_prefix=prefixes.pop(),
            **columns,
        )
    )


def wrongly_scored(samples: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    groups: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in samples:
        groups[row["reward"], row.get("generation_prefix"), tuple(row["columns"])].append(row)
    found = []
    for (name, *_), group in groups.items():
        for row, score in zip(group, scores(name, group), strict=True):
            expected = row["expected"]
            if (score == 1.0) if expected == "not 1.0" else (score != expected):
                found.append((name, row["completion"], row["columns"], expected, score))
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_row_scores_as_set_by_hand(file: Path) -> None:
    assert wrongly_scored(list(rows(file))) == []


@pytest.mark.parametrize(
    "claim",
    [
        "{" * 5000 + "5" + "}" * 5000,
        "9" * 20_000,
        r"\frac{1}{" * 200 + "2" + "}" * 200,
        r"10^{10^{10}}",
        "((10!)!)!",
        r"\prod_{k=1}^{1000000} k",
    ],
    ids=["braces", "digits", "fractions", "tower", "factorials", "product"],
)
def test_what_cannot_be_evaluated_is_not_paid_and_ends(claim: str) -> None:
    reward = load_registry().rewards["math_accuracy"]
    boxed = f"\\boxed{{{claim}}}"
    assert reward(completions=[boxed], solution=["5"], seconds=0.5) == [0.0]


@pytest.mark.parametrize("wrap", ["<think>77</think>\n<answer>{}</answer>", "<answer>{}</answer>"])
@pytest.mark.parametrize("name", ["math_accuracy", "numeric_match", "multiple_choice"])
def test_an_answer_is_worth_the_same_inside_its_tags(name: str, wrap: str) -> None:
    samples = [
        {**row, "completion": wrap.format(row["completion"])}
        for row in rows(HERE / f"{name}.jsonl")
        if "<" not in row["completion"] and "User:" not in row["completion"]
    ]
    assert wrongly_scored(samples) == []


@pytest.mark.parametrize("trick", NUMBERS, ids=lambda trick: trick.name.replace(" ", "-"))
@pytest.mark.parametrize("name", NUMERIC)
def test_tricks_about_numbers_are_not_paid(name: str, trick: Trick) -> None:
    _not_paid(name, trick, r"\boxed{4}")


@pytest.mark.parametrize("trick", LETTERS, ids=lambda trick: trick.name.replace(" ", "-"))
@pytest.mark.parametrize("name", ["multiple_choice", "exact_match", "math_accuracy"])
def test_tricks_about_letters_are_not_paid(name: str, trick: Trick) -> None:
    _not_paid(name, trick, r"\boxed{B}")


def _not_paid(name: str, trick: Trick, honest: str) -> None:
    reward = load_registry().rewards[name]
    given: dict[str, Any] = {
        "completions": [trick.completion, honest, "wrong"],
        "solution": [trick.solution, NUMBERS[0].solution if "4" in honest else "B", "4"],
        "prompts": [trick.prompt] * 3,
        "completion_ids": [[1, 2]] * 3,
        "max_completion_length": 8,
    }
    if name == "multiple_choice":
        given["solution"][2] = "C"
    trick_score, paid, unpaid = reward(**given)
    if name == "length_penalty":  # all equally long: what is right and wrong scores 0
        given["completion_ids"] = [[1], [1], [1, 2]]
        trick_score, paid, unpaid = reward(**given)
    assert paid is not None
    assert unpaid is not None
    assert paid > unpaid
    assert trick_score is None or trick_score < paid


@pytest.mark.parametrize("completion", [trick.completion for trick in NUMBERS + LETTERS])
def test_tricks_are_no_json_and_no_single_box(completion: str) -> None:
    rewards = load_registry().rewards
    assert rewards["json_format"](completions=[completion], keys=("a",)) == [0.0]
    if "<｜" in completion or "User:" in completion or completion.count("boxed") > 2:
        assert rewards["boxed_format"](completions=[completion]) == [0.0]


@pytest.mark.parametrize("gold", ["5", "1234", "0.75", "-3"])
def test_rewards_do_not_contradict_each_other(gold: str) -> None:
    rewards = load_registry().rewards
    for wrap in ("{}", "<think>a</think><answer>{}</answer>", r"\boxed{{{}}}", "#### {}"):
        for said in (gold, "999"):
            completion = wrap.format(said)
            found = {
                name: rewards[name](completions=[completion], solution=[gold])
                for name in ("exact_match", "numeric_match", "math_accuracy")
            }
            assert set(map(tuple, found.values())) == {(float(said == gold),)}, found


def test_columns_set_options_row_by_row() -> None:
    rewards = load_registry().rewards
    two = {"completions": ["3.1", "3.1"], "solution": ["3", "3"]}
    assert rewards["numeric_match"](**two, relative=[0.1, 1e-6]) == [1.0, 0.0]
    assert rewards["numeric_match"](**two, absolute=[None, 0.2]) == [0.0, 1.0]
    assert rewards["math_accuracy"](**two, seconds=[5.0, 4]) == [0.0, 0.0]
    said = ['{"a": 1}', '{"b": 1}']
    assert rewards["json_format"](completions=said, keys=[["a"], ["a"]]) == [1.0, 0.0]
    assert rewards["json_format"](completions=said, keys=["a", "b"]) == [0.0, 0.0]  # an option
    ids = [[1] * 10] * 2
    given = {"completions": ["4", "4"], "completion_ids": ids}
    assert rewards["soft_overlong"](**given, max_length=[10, 20], cache=[5, 5]) == [-1.0, 0.0]
    repeated = rewards["repetition_penalty"](**given, ngram_size=[10, 1], max_penalty=[-1.0, -0.5])
    assert repeated == pytest.approx([0.0, -0.45])
    curve = {"max_length": [10, 10], "correct": [[2.0, 1.0], None], "wrong": [None, [-3.0, -2.0]]}
    found = rewards["cosine_length"](**given, solution=["4", "5"], **curve)
    assert found == pytest.approx([1.0, -2.0])
    with pytest.raises(
        ValueError, match="column 'relative' sets an option, but holds 'x' in row 1"
    ):
        rewards["numeric_match"](**two, relative=[0.1, "x"])
