"""A malformed row is named with its file before a model is loaded, in every kind of data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset, IterableDataset

from trl_deepseek import data
from trl_deepseek.data import demonstrations, preferences
from trl_deepseek.errors import DataError

ASK = [{"role": "user", "content": "1+1?"}]
TWO = [{"role": "assistant", "content": "2"}]
THREE = [{"role": "assistant", "content": "3"}]
NAMELESS = [{"role": None, "content": "1+1?"}]

TEXT_PAIR = {"prompt": "1+1=", "chosen": "2", "rejected": "3"}
CHAT_PAIR = {"prompt": ASK, "chosen": TWO, "rejected": THREE}
IMPLICIT = {"chosen": [*ASK, *TWO], "rejected": [*ASK, *THREE]}
SINGLE = {"prompt": "1+1=", "completion": "2", "label": True}
HH = {"chosen": "\n\nHuman: 1+1?\n\nAssistant: 2", "rejected": "\n\nHuman: 1+1?\n\nAssistant: 3"}
ORCA = {"question": "1+1?", "system": "", "chosen": "2", "rejected": "3"}
FEEDBACK = {"prompt": "1+1?", **IMPLICIT}

PREFERENCES = [
    (TEXT_PAIR, {"chosen": None}, "column 'chosen' holds nothing, neither text nor a list"),
    (TEXT_PAIR, {"prompt": None}, "column 'prompt' holds nothing, neither text nor a list"),
    (CHAT_PAIR, {"chosen": []}, "column 'chosen' holds an empty list of messages"),
    (CHAT_PAIR, {"rejected": None}, "column 'rejected' holds nothing, neither text nor a list"),
    (CHAT_PAIR, {"prompt": NAMELESS}, "column 'prompt' message 0 has no role; it has content"),
    (
        CHAT_PAIR,
        {"prompt": [{"role": "user", "content": None}]},
        "column 'prompt' message 0 (user): the content is nothing, not text",
    ),
    (IMPLICIT, {"rejected": THREE}, "chosen and rejected share no beginning, which would be the"),
    (IMPLICIT, {"chosen": None}, "column 'chosen' holds nothing, neither text nor a list"),
    (IMPLICIT, {"chosen": ASK}, "column 'chosen' or 'rejected' is one message: there is no prompt"),
    (FEEDBACK, {"chosen": None}, "column 'chosen' holds nothing, neither text nor a list"),
    (ORCA, {"question": None}, "column 'question' holds nothing, not text"),
    (HH, {"chosen": "2"}, r"column 'chosen' does not start with '\n\nHuman:', as the first row"),
]
SINGLES = [
    (SINGLE, {"completion": None}, "column 'completion' holds nothing, neither text nor a list"),
    (SINGLE, {"prompt": None}, "column 'prompt' holds nothing, neither text nor a list"),
    (SINGLE, {"label": None}, "column 'label' holds nothing; a label is true or false, 1 or 0"),
    ({**SINGLE, "label": 1}, {"label": -1}, "column 'label' holds -1; a label is true or false, 1"),
    ({**SINGLE, "label": 1}, {"label": 2}, "column 'label' holds 2; a label is true or false, 1"),
    ({**SINGLE, "label": 1.0}, {"label": 0.9}, "column 'label' holds 0.9; a label is true or"),
]
PROMPTS = [
    ({"prompt": "1+1="}, {"prompt": " "}, "column 'prompt' holds empty text"),
    ({"prompt": "1+1="}, {"prompt": None}, "column 'prompt' holds nothing, neither text nor a"),
    ({"prompt": ASK}, {"prompt": []}, "column 'prompt' holds an empty list of messages"),
    ({"prompt": ASK}, {"prompt": NAMELESS}, "column 'prompt' message 0 has no role; it has cont"),
    (
        {"prompt": "1+1=", "score": 1.0},
        {"score": float("nan")},
        "column 'score' holds nan, not a finite number",
    ),
    (
        {"prompt": "1+1=", "score": 1.0},
        {"score": float("inf")},
        "column 'score' holds inf, not a finite number",
    ),
]
MARGINS = [
    ({"margin": 1.0}, {"margin": None}, "column 'margin' holds nothing, not a number; every pair"),
    ({"margin": 1.0}, {"margin": float("nan")}, "column 'margin' holds nan, not a finite number"),
    ({"margin": 1.0}, {"margin": float("-inf")}, "column 'margin' holds -inf, not a finite"),
]
DEMONSTRATIONS = [
    (
        {"messages": [*ASK, *TWO]},
        {"messages": [*NAMELESS, *TWO]},
        "column 'messages' message 0 has no role; it has content",
    ),
    (
        {"messages": [*ASK, *TWO]},
        {"messages": [{"role": "user", "content": None}, *TWO]},
        "column 'messages' message 0 (user): the content is nothing, not text",
    ),
    ({"prompt": ASK, "completion": TWO}, {"prompt": []}, "column 'prompt' holds an empty list"),
]

ARGS: Any = SimpleNamespace(drop_bad_rows=False)


def read(kind: str, dataset: Any) -> Any:
    if kind == "pairs":
        return preferences.pairs(dataset, ARGS, ["dpo"], "rows.jsonl")
    if kind == "singles":
        return preferences.dealt(preferences.either(dataset, ARGS, "rows.jsonl"))
    if kind == "prompts":
        return data.check_prompts(dataset, "rows.jsonl", ["score"])
    if kind == "margins":
        return data.check_margin(dataset, "rows.jsonl")
    return demonstrations.prepare(dataset, name="rows.jsonl")[0]


CASES = [
    pytest.param(kind, good, wrong, message, id=f"{kind}-{i}")
    for kind, cases in (
        ("pairs", PREFERENCES),
        ("singles", SINGLES),
        ("prompts", PROMPTS),
        ("margins", MARGINS),
        ("demonstrations", DEMONSTRATIONS),
    )
    for i, (good, wrong, message) in enumerate(cases)
]


@pytest.mark.parametrize("streams", [False, True], ids=["table", "stream"])
@pytest.mark.parametrize(("kind", "good", "wrong", "message"), CASES)
def test_a_malformed_row_is_named_with_its_file(
    kind: str, good: dict[str, Any], wrong: dict[str, Any], message: str, streams: bool
) -> None:
    rows = [good, good, {**good, **wrong}]
    dataset = Dataset.from_list(rows)
    with pytest.raises(DataError) as caught:
        list(read(kind, dataset.to_iterable_dataset() if streams else dataset))
    assert str(caught.value).startswith(f"rows.jsonl: row 2: {message}")
    assert len(read(kind, Dataset.from_list([good, good]))) == 2


@pytest.mark.parametrize("prompt", [7, None, 1.5])
def test_a_prompt_of_another_type_is_refused(prompt: Any) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl: row 0: column 'prompt' holds"):
        read("prompts", Dataset.from_list([{"prompt": prompt, "solution": "2"}]))


def test_further_malformed_rows_are_counted_with_the_first() -> None:
    rows = [TEXT_PAIR, *[{**TEXT_PAIR, "chosen": None}] * 3]
    with pytest.raises(DataError) as caught:
        read("pairs", Dataset.from_list(rows))
    assert str(caught.value).endswith("\n  rows 2, 3 of 4 cannot be used either")


@pytest.mark.parametrize("label", ["yes", "true"])
def test_text_is_no_label(label: str) -> None:
    with pytest.raises(DataError) as caught:
        read("singles", Dataset.from_list([{**SINGLE, "label": label}]))
    assert f"row 0: column 'label' holds '{label}'; a label is true or false" in str(caught.value)


def test_a_margin_that_is_text_is_refused() -> None:
    with pytest.raises(DataError, match="row 0: column 'margin' holds text, not a number"):
        read("margins", Dataset.from_list([{"margin": "1"}]))


@pytest.mark.parametrize("column", ["prompts", "completions", "generation_prefix", "trainer_state"])
def test_a_column_under_whose_name_rewards_get_something_else_is_refused(column: str) -> None:
    with pytest.raises(DataError) as caught:
        read("prompts", Dataset.from_list([{"prompt": "1+1=", column: "x"}]))
    assert str(caught.value) == (
        f"rows.jsonl has a column '{column}', a name under which rewards are given something else\n"
        f"  rename it: --columns {column}=my_{column}, or dataset.rename_columns"
    )


def test_a_reward_model_needs_no_prompt_before_its_texts() -> None:
    rows = Dataset.from_list([{"chosen": "2", "rejected": "3"}])
    assert len(preferences.pairs(rows, ARGS, ["bradley_terry"], needs_prompt=False)) == 1


def test_a_row_of_another_make_than_the_first_is_named() -> None:
    stream = IterableDataset.from_generator(
        lambda: iter([{"instruction": "1+1", "output": "2"}, {"instruction": "1+1", "output": []}])
    )
    with pytest.raises(DataError, match=r"rows\.jsonl: row 1: column 'output' holds"):
        list(demonstrations.prepare(stream, name="rows.jsonl")[0])


def test_fewer_prompts_than_a_batch_takes_are_refused() -> None:
    rows = Dataset.from_list([{"prompt": "1+1="}] * 3)
    data.check_batch(rows, 3, "rows.jsonl")
    with pytest.raises(
        DataError, match=r"rows\.jsonl has 3 prompts, and one generated batch takes"
    ):
        data.check_batch(rows, 4, "rows.jsonl")
