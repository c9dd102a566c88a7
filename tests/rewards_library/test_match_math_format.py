from __future__ import annotations

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from trl.rewards import accuracy_reward, reasoning_accuracy_reward, think_format_reward

from trl_deepseek_plugins.rewards.format import think_format
from trl_deepseek_plugins.rewards.match import exact_match
from trl_deepseek_plugins.rewards.math import math_accuracy


def as_messages(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize("wrap", [str, as_messages], ids=["strings", "messages"])
@pytest.mark.parametrize(
    ("completion", "solution", "prefix", "score"),
    [
        ("40", "40", None, 1.0),
        (" 40\n", "40", None, 1.0),
        ("40", 40, None, 1.0),
        ("41", "40", None, 0.0),
        ("the answer is 40", "40", None, 1.0),
        ("the answer is 40 m", "40", None, 0.0),
        ("<think>41</think>40", "40", None, 1.0),
        ("41</think>40", "40", "<think>\n", 1.0),
        ("<think>40</think>41", "40", None, 0.0),
        ("<think>a</think>b</think>40", "40", None, 1.0),
        ("<think>40", "40", None, 0.0),
        ("40", "40", "<think>\n", 0.0),
        ("40", "40", "</think>", 1.0),
        ("40", None, None, None),
        ("", " ", None, None),
        ("", "40", None, 0.0),
    ],
)
def test_exact_match_compares_what_follows_the_reasoning(
    wrap: Any, completion: str, solution: Any, prefix: str | None, score: float | None
) -> None:
    assert exact_match([wrap(completion)], [solution], generation_prefix=prefix) == [score]


@pytest.mark.parametrize("wrap", [str, as_messages], ids=["strings", "messages"])
@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("<think>a</think>b", {"": 1.0, None: 1.0, "</think>": 1.0, "<think>\n": 0.0}),
        ("\n<think>\na\n</think>\n\nb", {"": 1.0, None: 1.0, "</think>": 1.0, "<think>\n": 0.0}),
        ("a\n</think>\n\nb", {"": 0.0, None: 1.0, "</think>": 0.0, "<think>\n": 1.0}),
        ("<think></think>b", dict.fromkeys([None, "", "</think>", "<think>\n"], 0.0)),
        ("<think> \n</think>b", dict.fromkeys([None, "", "</think>", "<think>\n"], 0.0)),
        ("<think>a</think> ", dict.fromkeys([None, "", "</think>", "<think>\n"], 0.0)),
        ("<think>a", dict.fromkeys([None, "", "</think>", "<think>\n"], 0.0)),
        ("b", dict.fromkeys([None, "", "</think>", "<think>\n"], 0.0)),
        ("", dict.fromkeys([None, "", "</think>", "<think>\n"], 0.0)),
        ("so <think>a</think>b", dict.fromkeys([None, "", "</think>", "<think>\n"], 0.0)),
        ("<think>a<think>a</think>b", dict.fromkeys([None, "", "</think>", "<think>\n"], 0.0)),
        ("<think>a</think>b</think>c", dict.fromkeys([None, "", "</think>", "<think>\n"], 0.0)),
        ("a</think>b<think>c", dict.fromkeys([None, "", "</think>", "<think>\n"], 0.0)),
    ],
)
def test_think_format_knows_what_the_prompt_has_opened(
    wrap: Any, completion: str, score: dict[str | None, float]
) -> None:
    for prefix, expected in score.items():
        assert think_format([wrap(completion)], generation_prefix=prefix) == [expected], prefix
    assert think_format([wrap(completion)]) == [score[None]]


@pytest.mark.parametrize("prefix", ["", "<think>\n"])
def test_think_format_counts_reasoning_that_a_parser_has_taken_out(prefix: str) -> None:
    message = {"role": "assistant", "reasoning_content": "a", "content": "b"}
    assert think_format([[message]], generation_prefix=prefix) == [1.0]


@pytest.mark.parametrize(
    "completion",
    ["<think>a</think>b", "<think>a<think>b</think>c", "<think>a", "b", "so <think>a</think>b"],
)
def test_think_format_agrees_with_trl_on_full_forms(completion: str) -> None:
    assert think_format([completion]) == think_format_reward([as_messages(completion)])


def test_think_format_is_right_where_trl_is_not() -> None:
    for completion, score in [("a</think>b", 1.0), ("<think></think>b", 0.0)]:
        assert think_format([completion]) == [score]
        assert think_format_reward([as_messages(completion)]) == [1.0 - score]


CASES = [
    (r"\boxed{\frac{1}{3}}", r"\frac{1}{3}"),
    (r"\boxed{\frac{1}{2}}", r"\frac{1}{3}"),
    (r"\boxed{0.5}", r"\frac{1}{2}"),
    (r"It is \boxed{\frac{2}{4}}.", r"$\frac{1}{2}$"),
    (r"\boxed{x^2+2x+1}", r"$(x+1)^2$"),
    (r"first $3$, then \boxed{4}", "4"),
    (r"\boxed{40 \text{ cm}}", "40"),
    (r"\boxed{\{1,2\}}", r"$\{2,1\}$"),
    (r"nothing at all", "4"),
    (r"\boxed{4}", "words and words but no expression at all"),
    (r"\boxed{1,000}", "1000"),
]


def patiently(reward: Any, given: list[str], golds: list[str]) -> list[float | None]:
    """What a reward of TRL's says; outside the main thread it has no seconds to say it in."""
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(reward, [as_messages(text) for text in given], golds).result()
    return list(found)


@pytest.mark.parametrize("wrap", [str, as_messages], ids=["strings", "messages"])
def test_math_accuracy_agrees_with_trl(wrap: Any) -> None:
    given, golds = (list(each) for each in zip(*CASES, strict=True))
    expected = patiently(accuracy_reward, given, golds)
    assert {None, 0.0, 1.0} == set(expected)
    assert math_accuracy([wrap(text) for text in given], golds) == expected
    reasoned = [f"<think>it is \\boxed{{77}}</think>{text}" for text in given]
    expected = patiently(reasoning_accuracy_reward, reasoned, golds)
    assert math_accuracy([wrap(text) for text in reasoned], golds) == expected


@pytest.mark.parametrize(
    ("completion", "solution", "prefix", "score"),
    [
        ("40", "40", None, 1.0),
        ("1/3", r"\frac{1}{3}", None, 1.0),
        ("The answer is 40.", "40", None, 1.0),
        ("40.", "40", None, 1.0),
        ("**40**", "40", None, 1.0),
        ("x = 40", "40", None, 1.0),
        ("40, 41", "40", None, 0.0),
        (r"$41$ or $40$", "40", None, 0.0),
        ("I think 40", "40", None, 1.0),
        ("I think 40, not 41", "40", None, 0.0),
        ("40 or 41", "40", None, 0.0),
        ("41", "40", None, 0.0),
        (r"<think>\boxed{40}", "40", None, 0.0),
        (r"\boxed{40}", "40", "<think>\n", 0.0),
        (r"so \boxed{41}</think>\boxed{40}", "40", "<think>\n", 1.0),
        (r"\boxed{40}", None, None, None),
        (r"\boxed{40}", 40, None, 1.0),
    ],
)
def test_math_accuracy_reads_the_answer_alone(
    completion: str, solution: Any, prefix: str | None, score: float | None
) -> None:
    assert math_accuracy([completion], [solution], generation_prefix=prefix) == [score]


def test_math_accuracy_is_limited_in_every_thread() -> None:
    tower = r"\boxed{9^{9^{9^{9}}}}"  # one endless multiplication in C
    found: dict[str, Any] = {}

    def score(name: str) -> None:
        start = time.perf_counter()
        scores = math_accuracy([tower, r"\boxed{4}", tower], ["4"] * 3, seconds=1.0)
        found[name] = (scores, time.perf_counter() - start)

    score("main")
    thread = threading.Thread(target=score, args=("other",))
    thread.start()
    thread.join(600)
    for scores, seconds in found.values():
        assert scores == [0.0, 1.0, 0.0]
        assert 1.0 <= seconds < 300  # it did hang, and once: equal samples are scored once
    assert set(found) == {"main", "other"}


@pytest.mark.parametrize("reward", [exact_match, math_accuracy, think_format])
def test_rewards_pickle_and_take_no_samples(reward: Any) -> None:
    assert pickle.loads(pickle.dumps(reward)) is reward
    assert reward(completions=[], solution=[], prompts=[], completion_ids=[]) == []
