from __future__ import annotations

from typing import Any

import pytest

from trl_deepseek_plugins.rewards.format import answer_format, boxed_format, json_format, tag_count
from trl_deepseek_plugins.rewards.language import SCRIPTS, language_consistency

FULL = "<think>\na\n</think>\n<answer>\nb\n</answer>"
PREFILLED = "a\n</think>\n<answer>\nb\n</answer>"


def as_messages(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize("wrap", [str, as_messages], ids=["strings", "messages"])
@pytest.mark.parametrize(
    ("completion", "score"),
    [
        (FULL, 1.0),
        ("<think>a</think><answer>b</answer>", 1.0),
        (f"  {FULL}\n", 1.0),
        ("<think>a</think>b", 0.0),
        ("<answer>b</answer>", 0.0),
        ("<think>a</think>so <answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer>!", 0.0),
        ("<think>a</think><answer> </answer>", 0.0),
        ("<think> </think><answer>b</answer>", 0.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
        ("<think><answer>a</answer></think><answer>b</answer>", 0.0),
        ("<think>a</think><answer>b", 0.0),
        ("", 0.0),
    ],
)
def test_answer_format_is_the_template_of_r1(wrap: Any, completion: str, score: float) -> None:
    assert answer_format([wrap(completion)]) == [score]
    assert answer_format([wrap(completion)], generation_prefix="") == [score]
    assert answer_format([wrap(completion)], generation_prefix="<think>\n") == [0.0]


def test_answer_format_counts_what_the_prompt_has_opened() -> None:
    assert answer_format([PREFILLED], generation_prefix="<think>\n") == [1.0]
    assert answer_format([PREFILLED]) == [1.0]
    assert answer_format([PREFILLED], generation_prefix="") == [0.0]


def open_r1_tag_count(text: str) -> float:
    """open-r1's definition: a quarter for each tag that occurs once with its line breaks."""
    tags = ["<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>"]
    return sum(0.25 for tag in tags if text.count(tag) == 1)


@pytest.mark.parametrize(
    "completion",
    [
        FULL,
        "<think>\na\n</think>\nb",
        "a\n</think>\n<answer>\nb\n</answer>",
        FULL + FULL,
        "<think>\na\n<think>\nb\n</think>\n<answer>\nc\n</answer>",
        "nothing",
        "",
    ],
)
def test_tag_count_is_open_r1s_where_lines_are_broken(completion: str) -> None:
    assert tag_count([completion]) == [open_r1_tag_count(completion)]
    assert tag_count([as_messages(completion)]) == [open_r1_tag_count(completion)]


def test_tag_count_counts_the_tag_in_the_prompt_and_needs_no_line_breaks() -> None:
    assert tag_count([PREFILLED, FULL], generation_prefix="<think>\n") == [1.0, 0.75]
    assert tag_count(["<think>a</think><answer>b</answer>"]) == [1.0]


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        (r"so \boxed{4}", 1.0),
        (r"\boxed{\frac{1}{2}}", 1.0),
        (r"\boxed{\{1, 2\}}", 1.0),
        (r"\boxed{4} or \boxed{5}", 0.0),
        (r"\boxed{ }", 0.0),
        (r"\boxed{4", 0.0),
        (r"<think>\boxed{4}</think>4", 0.0),
        (r"<think>\boxed{5}</think>\boxed{4}", 1.0),
        (r"<think>\boxed{4}", 0.0),
        ("4", 0.0),
        ("", 0.0),
    ],
)
def test_boxed_format_wants_one_box_in_the_answer(completion: str, score: float) -> None:
    assert boxed_format([completion, as_messages(completion)]) == [score, score]


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ('{"a": 1}', 1.0),
        ("[1, 2]", 1.0),
        ('<think>x</think>\n{"a": 1}\n', 1.0),
        ('```json\n{"a": 1}\n```', 1.0),
        ('```\n{"a": 1}```', 1.0),
        ('Here: {"a": 1}', 0.0),
        ("{'a': 1}", 0.0),
        ("NaN", 0.0),
        ('{"a": 1} {"b": 2}', 0.0),
        ("[" * 100_000, 0.0),
        ("", 0.0),
    ],
)
def test_json_format_wants_one_value(completion: str, score: float) -> None:
    assert json_format([completion, as_messages(completion)]) == [score, score]


def test_json_format_can_want_keys() -> None:
    given = ['{"a": 1, "b": 2}', '{"a": 1}', '["a", "b"]', "1"]
    assert json_format(given, keys=("a", "b")) == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("wrap", [str, as_messages], ids=["strings", "messages"])
@pytest.mark.parametrize(
    ("reasoning", "english", "chinese"),
    [
        ("First we add the numbers.", 1.0, 0.0),
        ("首先我们把数字相加", 0.0, 1.0),
        ("我们 need to 加", 2 / 5, 3 / 5),  # 我 们 need to 加
        ("Let x be 我", 2 / 3, 1 / 3),  # x is a symbol
        ("设x为未知数，则 2x + 1 = 5", 0.0, 1.0),
        ("在三角形ABC中，AB = 5，sin(B) = 0.5", 0.0, 1.0),
        (r"因为 $\text{area} = \frac{1}{2}$，所以 \(a + b\) 正确", 0.0, 1.0),
        ("调用 `print(value)` 函数：\n```python\nfor item in items: pass\n```\n结束", 0.0, 1.0),
        ("ｆｕｌｌ width", 1.0, 0.0),
        ("don't stop", 1.0, 0.0),
        ("用Python写代码", 1 / 5, 4 / 5),
        ("设x_1和foo_bar2", 0.0, 1.0),
    ],
)
def test_language_consistency_is_the_share_of_words(
    wrap: Any, reasoning: str, english: float, chinese: float
) -> None:
    for completion in [f"<think>{reasoning}</think>Ответ 4", reasoning]:
        for language, share in [("en", english), ("zh", chinese)]:
            scores = language_consistency([wrap(completion)], language=language)
            assert scores == [pytest.approx(share)]
    prefilled = f"{reasoning}</think>Ответ 4"
    scores = language_consistency([wrap(prefilled)], generation_prefix="<think>\n")
    assert scores == [pytest.approx(english)]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("ひらがなとカタカナと漢字", "ja"),
        ("안녕하세요 여러분", "ko"),
        ("Сначала сложим числа", "ru"),
        ("Πρώτα προσθέτουμε", "el"),
        ("नमस्ते दुनिया", "hi"),
        ("أولاً نجمع الأعداد", "ar"),
        ("Zuerst addieren wir", "de"),
    ],
)
def test_language_consistency_knows_the_scripts(text: str, language: str) -> None:
    assert language_consistency([text], language=language) == [1.0]
    others = {name for name in SCRIPTS if not set(SCRIPTS[name]) & set(SCRIPTS[language])}
    assert {language_consistency([text], language=name)[0] for name in others} == {0.0}


def test_language_consistency_abstains_without_words_and_takes_a_column() -> None:
    silent = ["<think>6+7=13</think>thirteen", "", "<think>$x$</think>", "<think></think>word"]
    assert language_consistency(silent) == [None] * 4
    assert language_consistency(["hello there", "你好"], language=["zh", "zh"]) == [0.0, 1.0]
    with pytest.raises(ValueError, match="no language 'xx'; known: ar, de"):
        language_consistency(["hello"], language="xx")
