"""The metric ``mt_bench``."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset

from trl_deepseek.errors import UserError
from trl_deepseek.evaluation import evaluate, resolve
from trl_deepseek.generation import Completion

QUESTIONS = [
    {
        "question_id": 81,
        "category": "writing",
        "turns": ["Write a haiku.", "Now a longer one."],
        "reference": None,
    },
    {
        "question_id": 111,
        "category": "math",
        "turns": ["What is 2+2?", "And doubled?"],
        "reference": ["Four.", "Eight."],
    },
]
OPTIONS = {"endpoint": {"cache": None, "retries": 0}}


@pytest.fixture
def talks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a model is asked, turn by turn; it answers with the number of messages."""
    seen: list[Any] = []

    def complete(model: Any, tokenizer: Any, prompts: Any, *_: Any, **__: Any) -> Any:
        seen.append([[dict(message) for message in prompt] for prompt in prompts])
        said = [f"<think>hm</think>answer after {len(prompt)}" for prompt in prompts]
        return [[Completion(text, (1,), True)] for text in said]

    monkeypatch.setattr("trl_deepseek.generation.complete", complete)
    return seen


def measured(registry: Any, tiny: Any, rows: Any = QUESTIONS, samples: int = 1) -> Any:
    chosen = resolve(["mt_bench"], registry, {"mt_bench": OPTIONS}, num_samples=samples)
    models = {"m": (None, tiny[1])}
    return evaluate(models, Dataset.from_list(rows), chosen, registry=registry)


def test_two_turns_are_answered_and_graded_by_turn_and_category(
    registry: Any, tiny: Any, server: Any, talks: list[Any]
) -> None:
    def judge(request: dict[str, Any], number: int) -> Any:
        shown = request["messages"][1]["content"]
        second = "assistant: answer after 1" in shown
        mathematical = "2+2" in shown
        return server.said(
            f"Score: {(9 if second else 8) if mathematical else (4 if second else 1)}"
        )

    server.answer = judge
    evaluation = measured(registry, tiny)
    found = evaluation.estimates()
    assert [
        (each["row"], each["completion"][-1], each["metrics/mt_bench"])
        for each in evaluation.samples
    ] == [(0, "1", 1), (1, "1", 8), (0, "3", 4), (1, "3", 9)]
    assert {label: estimate.value for label, estimate in found.items()} == pytest.approx(
        {
            "mt_bench": (1 + 4 + 8 + 9) / 4,
            "mt_bench/turn_1": (1 + 8) / 2,
            "mt_bench/turn_2": (4 + 9) / 2,
            "mt_bench/writing": (1 + 4) / 2,
            "mt_bench/math": (8 + 9) / 2,
        }
    )
    first, second = talks
    assert [[message["role"] for message in talk] for talk in first] == [["user"]] * 2
    assert second[1] == [
        {"role": "user", "content": "What is 2+2?"},
        {"role": "assistant", "content": "answer after 1"},
        {"role": "user", "content": "And doubled?"},
    ]
    shown = [request["messages"][1]["content"] for request in server.requests]
    assert sum("Four." in text for text in shown) == sum("Eight." in text for text in shown) == 1
    assert all("hm" not in text for text in shown)


def test_a_conversation_with_an_answer_that_has_no_grade_has_none(
    registry: Any, tiny: Any, server: Any, talks: list[Any]
) -> None:
    server.answer = lambda request, number: server.said(
        "Score: 5" if "haiku" in request["messages"][1]["content"] else "no idea"
    )
    found = measured(registry, tiny).estimates()
    assert (found["mt_bench"].value, found["mt_bench"].count) == (5.0, 1)
    assert "mt_bench/math" not in found


@pytest.mark.parametrize(
    ("rows", "samples", "message"),
    [
        ([{"question": "x"}], 1, "cannot read row 0 of the dataset: it has no column 'turns'"),
        ([{"turns": ["one"]}], 1, "'turns' must hold two texts"),
        ([{"turns": ["a", "b"], "reference": ["c"]}], 1, "'reference' must hold two texts"),
        (QUESTIONS, 4, "a conversation has one answer per turn, not 4"),
    ],
)
def test_other_rows_and_several_answers_are_refused(
    rows: Any, samples: int, message: str, registry: Any, tiny: Any, server: Any
) -> None:
    with pytest.raises(UserError, match=message):
        measured(registry, tiny, rows, samples)


def test_a_judge_that_refuses_all_ends_it_with_its_reason(
    registry: Any, tiny: Any, server: Any, talks: list[Any]
) -> None:
    server.answer = lambda request, number: (401, {}, {"error": {"message": "no such key"}})
    with pytest.raises(Exception, match=r"metric 'mt_bench' failed: AuthenticationError.*no such"):
        measured(registry, tiny)
