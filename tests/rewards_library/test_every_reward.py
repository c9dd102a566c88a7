"""What holds for every reward in the library, present and future."""

from __future__ import annotations

import inspect
import pickle
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek import load_registry
from trl_deepseek.cli import plugin_page
from trl_deepseek.errors import ConfigError
from trl_deepseek.registry import Registry
from trl_deepseek.rewards import check_sandbox, resolve
from trl_deepseek.sandbox import running as sandbox

COMPARING = {"math_accuracy", "cosine_length", "length_penalty"}  # each sample within 5 s
# Need an endpoint, a sandbox and a library's own questions; tested where those are.
OUTSIDE = {"llm_judge", "code_tests", "reasoning_gym"}
ENTRIES = [e for e in load_registry().entries("rewards") if e.origin.distribution == "trl-deepseek"]
NAMES = sorted(entry.name for entry in ENTRIES if entry.name not in OUTSIDE)

# Each is made so that a careless regular expression or parser needs quadratic time.
HUGE = [
    "word " * 40_000,
    r"\boxed{" * 30_000,
    "{" * 200_000,
    "<think>" * 30_000,
    "</think>" * 25_000,
    "<answer>" * 25_000,
    r"\[" * 100_000,
    "answer" + " " * 200_000,
    "1," * 100_000,
    "9" * 200_000,
    "a" * 200_000,
    "```" * 70_000,
    "你好" * 100_000,
    "$" * 200_000,
]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return load_registry()


def arguments(completions: list[Any]) -> dict[str, Any]:
    count = len(completions)
    return {
        "prompts": ["a question"] * count,
        "completions": completions,
        "completion_ids": [list(range(i % 7)) for i in range(count)],
        "solution": ["B"] * count,
        "max_completion_length": 100,
    }


def call(registry: Registry, name: str, completions: list[Any]) -> list[float | None]:
    given = arguments(completions)
    if name in {"numeric_match", *COMPARING}:
        given["solution"] = ["4"] * len(completions)
    return list(registry.rewards[name](**given))


def test_there_are_rewards_to_hold_to_this() -> None:
    assert {"exact_match", "math_accuracy", "think_format", "language_consistency"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_scores_strings_and_messages_alike(registry: Registry, name: str) -> None:
    said = ["", "4", "B", "<think>two and two</think>4", "a</think>B", r"\boxed{4}", '{"a": 1}']
    strings = call(registry, name, said)
    messages = call(registry, name, [[{"role": "assistant", "content": text}] for text in said])
    parts = [[{"role": "assistant", "content": [{"type": "text", "text": t}]}] for t in said]
    assert strings == messages == call(registry, name, parts)
    assert len(strings) == len(said)
    assert all(score is None or -1.0 <= score <= 1.0 for score in strings)


@pytest.mark.parametrize("name", NAMES)
def test_it_scores_nothing_at_all(registry: Registry, name: str) -> None:
    assert call(registry, name, []) == []
    assert len(call(registry, name, [[]])) == 1
    assert len(call(registry, name, [[{"role": "assistant", "content": None}]])) == 1


@pytest.mark.parametrize("name", sorted({*NAMES} - {*COMPARING} | {"math_accuracy"}))
def test_it_is_done_with_a_huge_completion_in_linear_time(registry: Registry, name: str) -> None:
    call(registry, name, ["warm"])
    start = time.perf_counter()
    given = HUGE[:1] if name in COMPARING else HUGE
    assert len(call(registry, name, given)) == len(given)
    assert time.perf_counter() - start < 100  # a quadratic pass over one of them takes minutes


@pytest.mark.parametrize("name", NAMES)
def test_it_pickles_and_options_bind_with_partial(registry: Registry, name: str) -> None:
    function = registry.rewards[name].function
    assert pickle.loads(pickle.dumps(function)) is function
    bound = pickle.loads(pickle.dumps(partial(function, generation_prefix="")))
    assert len(bound(**{**arguments(["4"]), "solution": ["B"]})) == 1


@pytest.mark.parametrize("name", NAMES)
def test_it_declares_the_columns_that_it_cannot_do_without(registry: Registry, name: str) -> None:
    reward = registry.rewards[name]
    parameters = inspect.signature(reward.function).parameters.values()
    given = {"prompts", "completions", "completion_ids"}
    needed = {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    assert set(reward.columns) == needed - given


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_its_page_has_a_description_a_range_and_a_source(entry: Any, repository: Path) -> None:
    page = plugin_page.describe(entry)
    for part in ("summary", "range", "source"):
        assert page[part], f"{entry.name} has no {part}"
    assert f"| `{entry.name}` |" in (repository / "docs" / "rewards.md").read_text()


def test_a_missing_optional_package_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    plugin = tmp_path / "needy.py"
    plugin.write_text(
        "from trl_deepseek import hookimpl\n"
        "@hookimpl\n"
        "def register_rewards(register):\n"
        "    register('needy', lambda completion: 1.0, requires='no_such_module')\n"
    )
    with pytest.raises(ConfigError) as caught:
        resolve("needy", load_registry([str(plugin)]))
    assert str(caught.value) == (
        "reward 'needy' needs the module 'no_such_module', which is not installed\n"
        "  install it with: pip install no_such_module"
    )


def test_code_without_a_sandbox_is_refused_before_a_model_is_loaded(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = resolve(["exact_match", "code_tests"], registry)
    monkeypatch.setattr(sandbox, "unavailable", lambda: "bwrap is missing")
    with pytest.raises(ConfigError, match="--allow_unsandboxed_code"):
        check_sandbox(functions, False)
    assert check_sandbox(functions, True) == "unsandboxed"
    assert check_sandbox(functions[:1], False) is None
    monkeypatch.setattr(sandbox, "unavailable", lambda: None)
    assert check_sandbox(functions, False) == "bubblewrap"


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        *((name, "{}") for name in ("math_accuracy", "exact_match", "numeric_match")),
        *((name, "<think>\nso\n</think>\n\n{}") for name in ("math_accuracy", "exact_match")),
        *((name, r"\boxed{{{}}}") for name in ("math_accuracy", "numeric_match")),
    ],
)
def test_the_embedded_tasks_solutions_score_their_maximum(
    registry: Registry, name: str, wrap: str
) -> None:
    golds = list(registry.datasets["arithmetic"](split="test", size=16)["solution"])
    assert len(set(golds)) > 8
    given = [wrap.format(gold) for gold in golds]
    assert registry.rewards[name](completions=given, solution=golds) == [1.0] * len(golds)
