"""The fixtures for authors hold a reward to its table, and do not let a wrong one pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek import testing
from trl_deepseek_plugins.rewards.format import think_format
from trl_deepseek_plugins.rewards.match import exact_match


def short(completion: str, limit: int) -> float:
    return float(len(completion) <= limit)


async def short_async(completions: list[Any], limit: list[int], **_: Any) -> list[float]:
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [float(len(text) <= most) for text, most in zip(texts, limit, strict=True)]


def text_only(completions: list[str], **_: Any) -> list[float]:
    return [float(completion == "four") for completion in completions]


def forgetful(completions: list[Any], seen: list[int] = [], **_: Any) -> list[float]:  # noqa: B006
    seen.append(1)
    return [float(len(seen))] * len(completions)


TABLE: list[testing.Case] = [("four", {"limit": 5}, 1.0), ("seventeen", {"limit": 5}, 0.0)]


@pytest.mark.parametrize("reward", [short, short_async])
def test_it_passes_what_is_right(reward: Any, check_reward: testing.CheckReward) -> None:
    check_reward(reward, TABLE)


@pytest.mark.parametrize(
    ("reward", "cases", "message"),
    [
        (
            short,
            [("four", {"limit": 3}, 1.0)],
            "'four' as text, in a batch of 1: scored 0.0, not 1.0",
        ),
        (text_only, [("four", {}, 1.0)], "as messages, in a batch of 1: scored 0.0, not 1.0"),
        (forgetful, [("four", {}, 1.0), ("five", {}, 1.0)], "scored 2.0, not 1.0"),
        (exact_match, [("four", {"solution": None}, 0.0)], "scored None, not 0.0"),
        (short, [("four", {}, 1.0)], "TypeError: short() missing 1 required positional argument"),
        (short, [], "holds a reward to nothing"),
    ],
    ids=["wrong", "one-form-only", "remembers", "abstains", "raises", "empty-table"],
)
def test_it_fails_what_is_wrong(
    reward: Any, cases: list[testing.Case], message: str, check_reward: testing.CheckReward
) -> None:
    with pytest.raises(AssertionError) as caught:
        check_reward(reward, cases)
    assert message in str(caught.value)


def test_a_reward_that_does_not_pickle_is_refused_unless_that_is_said() -> None:
    def inside(completion: str) -> float:
        return 1.0

    with pytest.raises(Exception, match="pickle"):
        testing.check(inside, [("four", {}, 1.0)])
    testing.check(inside, [("four", {}, 1.0)], pickles=False)


def test_the_factory_writes_what_the_formats_want(
    make_completion: testing.MakeCompletion,
) -> None:
    whole = make_completion(reasoning="two and two")
    rest = make_completion(reasoning="two and two", prefilled=True)
    assert whole == f"<think>\n{rest}"
    assert think_format([whole], generation_prefix="") == [1.0]
    assert think_format([rest], generation_prefix="<think>\n") == [1.0]
    assert make_completion("4", messages=True) == [{"role": "assistant", "content": "4"}]


def test_check_plugin_names_what_does_not_hold(
    tmp_path: Path, check_plugin: testing.CheckPlugin
) -> None:
    check_plugin("deepseek_rewards_format")  # - and _ are alike in names of plugins
    check_plugin("deepseek-rewards-match", {"solution": "B"})
    file = tmp_path / "vague.py"
    file.write_text(
        "from trl_deepseek import hookimpl\n@hookimpl\ndef register_rewards(register):\n"
        "    register('Vague', vague)\ndef vague(completion): return 1.0\n"
    )
    with pytest.raises(AssertionError, match="reward 'Vague': has a name in lower case: NO, write"):
        check_plugin(str(file))


@pytest.mark.matrix
@pytest.mark.slow
def test_the_third_party_example_passes_its_own_tests(repository: Path) -> None:
    example = repository / "examples" / "third_party_plugin"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=example,
        env={**os.environ, "PYTHONPATH": str(example)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout
