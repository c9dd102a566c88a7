"""Preference data as people publish it, and rows that teach nothing."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset

from trl_deepseek.data import preferences
from trl_deepseek.errors import DataError

USER = [{"role": "user", "content": "1+1?"}]


def says(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]


def args(drop: bool = False) -> Any:
    return SimpleNamespace(drop_bad_rows=drop)


def pairs(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = preferences.pairs(Dataset.from_list([row]), args(), ["dpo"])[0]
    return {name: found[name] for name in ("prompt", "chosen", "rejected") if name in found}


EXPECTED = {"prompt": USER, "chosen": says("2"), "rejected": says("3")}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({**EXPECTED, "score": 0.5}, EXPECTED),
        (
            {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
            {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
        ),
        (
            {"chosen": [*USER, *says("2")], "rejected": [*USER, *says("3")]},
            {"chosen": [*USER, *says("2")], "rejected": [*USER, *says("3")]},
        ),
        (
            {
                "prompt": "1+1?",
                "chosen": [*USER, *says("2")],
                "rejected": [*USER, *says("3")],
                "score_chosen": 9.0,
            },
            EXPECTED,
        ),
        ({"question": "1+1?", "system": "", "chosen": "2", "rejected": "3"}, EXPECTED),
        (
            {"question": "1+1?", "system": "Be brief.", "chosen": "2", "rejected": "3"},
            {**EXPECTED, "prompt": [{"role": "system", "content": "Be brief."}, *USER]},
        ),
        (
            {
                "chosen": "\n\nHuman: 1+1?\n\nAssistant: 2",
                "rejected": "\n\nHuman: 1+1?\n\nAssistant: 3",
            },
            EXPECTED,
        ),
        ({"prompt": "1+1?", "chosen": says("2"), "rejected": says("3")}, EXPECTED),
    ],
    ids=["chat", "text", "implicit", "ultrafeedback", "orca", "orca-system", "hh", "mixed"],
)
def test_each_layout_becomes_the_pair_it_means(
    row: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert pairs(row) == expected


def test_a_rewritten_layout_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pairs({"question": "1+1?", "chosen": "2", "rejected": "3"})
    assert "read as Orca-style rows and rewritten as conversations" in caplog.text


def test_other_columns_are_refused_with_those_that_would_do() -> None:
    with pytest.raises(DataError) as caught:
        pairs({"question": "1+1?", "answer": "2"})
    assert str(caught.value) == (
        "the dataset is not preference data: its columns are question, answer\n"
        "  pairs need chosen and rejected (and prompt, unless both start with it)\n"
        "  labelled singles need prompt, completion and label"
    )


def test_singles_are_refused_for_a_loss_on_pairs_with_the_reason() -> None:
    with pytest.raises(DataError) as caught:
        pairs({"prompt": "1+1=", "completion": "2", "label": True})
    assert str(caught.value) == (
        "the dataset holds labelled singles (completion, label), and loss 'dpo' compares the two "
        "completions of a pair\n"
        "  use an unpaired loss (kto, apo_zero_unpaired), or data with chosen and rejected"
    )


BAD = Dataset.from_list(
    [
        {"prompt": "1+1=", "chosen": "2", "rejected": "3"},
        {"prompt": "1+2=", "chosen": "3", "rejected": "3"},
        {"prompt": "1+3=", "chosen": " ", "rejected": "3"},
        {"prompt": "1+4=", "chosen": "5", "rejected": ""},
    ]
)
REPORT = (
    "chosen equals rejected: 1 (row 1); chosen is empty: 1 (row 2); rejected is empty: 1 (row 3)"
)


@pytest.mark.parametrize(
    ("drop", "left", "fate"),
    [(False, 4, "kept; drop_bad_rows leaves them out"), (True, 1, "left out")],
)
def test_rows_that_teach_nothing_are_counted_and_dropped_only_if_told_to(
    drop: bool, left: int, fate: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(preferences.pairs(BAD, args(drop), ["dpo"])) == left
    assert f"3 of 4 rows are bad ({fate}): {REPORT}" in caplog.text


def test_data_that_teaches_nothing_at_all_is_refused() -> None:
    with pytest.raises(DataError, match="none of the 1 rows can teach anything: chosen equals"):
        pairs({"prompt": "1+1=", "chosen": "2", "rejected": "2"})


@pytest.mark.parametrize("count", [4, 1000, 2500])
@pytest.mark.parametrize("batch", [2, 4, 8])
def test_pairs_taken_apart_give_both_classes_to_every_batch(count: int, batch: int) -> None:
    """TRL makes runs of 1000 of one class."""
    data = Dataset.from_list(
        [{"prompt": f"{i}", "chosen": "yes", "rejected": "no"} for i in range(count)]
    )
    found = preferences.dealt(preferences.either(data, args())).to_list()
    assert len(found) == 2 * count
    assert sum(row["label"] for row in found) == count
    for start in range(0, len(found) - len(found) % batch, batch):
        assert {row["label"] for row in found[start : start + batch]} == {True, False}
    for row in found:
        assert row["completion"] == ("yes" if row["label"] else "no")
    assert sorted({row["prompt"] for row in found}) == sorted(map(str, range(count)))


@pytest.mark.parametrize(
    ("desirable", "undesirable", "given"),
    [
        (100, 100, (None, None)),
        (100, 700, (None, None)),
        (700, 100, (None, None)),
        (100, 700, (2.0, None)),
        (100, 700, (None, 0.5)),
    ],
)
def test_class_weights_are_within_the_papers_range(
    desirable: int, undesirable: int, given: tuple[float | None, float | None]
) -> None:
    """arXiv:2402.01306, equation 8: between 1 and 4/3."""
    first, second = preferences.class_weights(desirable, undesirable, given)
    assert 1 <= round(first * desirable / (second * undesirable), 9) <= 4 / 3
    for found, wanted in zip((first, second), given, strict=True):
        assert wanted is None or found == wanted
