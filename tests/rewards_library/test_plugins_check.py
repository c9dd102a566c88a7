from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.cli.main import main
from trl_deepseek.plugin_kit import conformance

GOOD = '''
from trl_deepseek import hookimpl

def tidy(completion, answer_key):
    """1.0 where it is the key."""
    return float(completion == answer_key)

def whole(completions, **_):
    """Their lengths."""
    return [0.0 if isinstance(c, str) else 0.0 for c in completions]

@hookimpl
def register_rewards(register):
    register("tidy", tidy)
    register("whole", whole, columns="anything")
'''

FAULTY = '''
import time
from trl_deepseek import hookimpl

calls = []

def undescribed(completion): return 1.0

def text_only(completions, **_):
    """Fails on messages."""
    return [float(c.startswith("4")) for c in completions]

def fickle(completion):
    """Never the same."""
    calls.append(1)
    return len(calls)

def meddler(completions, **_):
    """Changes what it is given."""
    for completion in completions:
        if isinstance(completion, list):
            completion[0]["content"] = ""
    return [0.0 for _ in completions]

def needs_one(completions, **_):
    """Fails on an empty batch."""
    return [float(len(str(completions[0])) * 0) for _ in range(max(1, len(completions)))]

def nan(completion):
    """Not a number."""
    return float("nan")

def slow(completion):
    """Quadratic."""
    if len(completion) > 50_000:
        time.sleep(60)
    return 0.0

def blind(completion):
    """Has no parameter for its column."""
    return 0.0

@hookimpl
def register_rewards(register):
    register("Un Described".replace(" ", ""), undescribed)
    register("text_only", text_only)
    register("fickle", fickle)
    register("meddler", meddler)
    register("needs_one", needs_one)
    register("nan", nan)
    register("slow", slow, timeout=1.0)
    register("blind", blind, columns=("level",))
    register("closure", (lambda: lambda completion: 0.0)())
'''


TYPED = '''
from trl_deepseek import hookimpl

def near(completion: str, target: int, scale: float = 2.0) -> float | None:
    """Nearer is better."""
    return 1 / (1 + abs(len(completion) - target) / scale)

def any_of(completions, targets: list[list[str]], limit: list[int] | None = None, **_):
    """Whether one of the targets is in it."""
    return [float(any(part in str(c) for part in own)) for c, own in zip(completions, targets)]

def untyped(completion, target):
    """Whoever reads it knows that it is a number."""
    return float(len(completion) > target + 1)

@hookimpl
def register_rewards(register):
    register("near", near)
    register("any_of", any_of)
    register("untyped", untyped)
'''

REMEMBERS = '''
from trl_deepseek import hookimpl

class Novelty:
    """1.0 to what was never said before."""
    def __init__(self):
        self.seen = []
    def __call__(self, completion: str) -> float:
        self.seen.append(completion)
        return float(self.seen.count(completion) == 1)

class Kept(Novelty):
    def state_dict(self):
        return {"seen": self.seen}
    def load_state_dict(self, state):
        self.seen = state["seen"]

class Forgotten(Kept):
    def load_state_dict(self, state):
        pass

@hookimpl
def register_rewards(register):
    register("novelty", Novelty())
    register("kept", Kept())
    register("forgotten", Forgotten())
'''


def write(tmp_path: Path, text: str) -> str:
    file = tmp_path / "theirs.py"
    file.write_text(text)
    return str(file)


def test_a_good_plugin_passes_every_check(tmp_path: Path) -> None:
    checks = conformance.check(write(tmp_path, GOOD))
    assert [check for check in checks if check.problem] == []
    assert {check.item for check in checks} > {"reward 'tidy'", "reward 'whole'"}
    assert len(checks) == 22


def test_each_fault_is_found_and_no_other(tmp_path: Path) -> None:
    found = {
        (check.item.split("'")[1], check.claim): check.problem
        for check in conformance.check(write(tmp_path, FAULTY))
        if check.problem
    }
    expected = {
        ("UnDescribed", "has a name in lower case"): "'undescribed'",
        ("text_only", "scores messages as it scores text"): "no attribute 'startswith'",
        ("fickle", "scores messages as it scores text"): "as messages",
        ("fickle", "scores the same when asked again"): "then",
        ("meddler", "leaves alone what it is given"): "changed its arguments",
        ("needs_one", "scores an empty batch"): "IndexError",
        ("nan", "scores text"): "returned nan",
        ("nan", "scores messages as it scores text"): "returned nan",
        ("nan", "scores huge completions in time"): "returned nan",
        ("slow", "scores huge completions in time"): "did not finish within 1 s",
        ("blind", "can be called as a reward"): "'level', which it has no parameter for",
        ("closure", "pickles, as worker processes need"): "local object",
    }
    assert set(found) == set(expected)
    for key, part in expected.items():
        assert part in str(found[key]), key


def test_a_column_gets_a_value_of_the_type_that_it_is_annotated_with(tmp_path: Path) -> None:
    checks = conformance.check(write(tmp_path, TYPED))
    assert {check.item for check in checks if check.problem} == {"reward 'untyped'"}
    (said,) = (check.problem for check in checks if check.problem and check.claim == "scores text")
    assert said.endswith("\nwith target='4'; --data FILE takes the columns from a row of yours")


def test_a_reward_that_remembers_says_what_or_is_found(tmp_path: Path) -> None:
    claim = "scores the same when asked again"
    found = {
        check.item: check.problem
        for check in conformance.check(write(tmp_path, REMEMBERS))
        if check.claim == claim
    }
    assert found == {
        "reward 'novelty'": "'4' scored 1.0, then 0.0\nwhat an object remembers is lost where a "
        "run goes on: state_dict() and load_state_dict(state) keep it",
        "reward 'kept'": None,
        "reward 'forgotten'": "'4' scored 1.0, then 0.0 from the same state_dict()",
    }


@pytest.mark.parametrize(
    "plugin", ["deepseek-rewards-match", "deepseek-rewards-format", "deepseek-rewards-length"]
)
def test_our_own_rewards_pass(plugin: str) -> None:
    checks = conformance.check(plugin, values={"solution": "B"})
    assert [check for check in checks if check.problem] == []
    assert any(check.claim.startswith("scores huge") for check in checks)


def test_losses_and_templates_are_tried_too() -> None:
    claims = {check.claim: check.problem for check in conformance.check("deepseek-dpo")}
    assert claims["gives one finite loss per sequence, with a gradient"] is None
    claims = {check.claim: check.problem for check in conformance.check("deepseek-chat")}
    assert claims["renders a conversation"] is None


def test_a_loss_without_gradient_is_found(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "from trl_deepseek import hookimpl\n"
        "def stuck(logps):\n    '''Has no gradient.'''\n    return (logps.chosen * 0).detach()\n"
        "@hookimpl\ndef register_losses(register):\n    register('stuck', stuck)\n",
    )
    (problem,) = [check.problem for check in conformance.check(file) if check.problem]
    assert problem is not None
    assert "no gradient" in problem


@pytest.mark.parametrize(
    ("text", "claim", "part"),
    [
        ("import no_such_module\n", "loads", "No module named 'no_such_module'"),
        ("x = 1\n", "loads", "no hook implementation found"),
        (
            "from trl_deepseek import hookimpl\n@hookimpl\ndef register_rewards(register):\n"
            "    register('exact_match', lambda completion: 1.0)\n",
            "has names of its own",
            "two plugins register a reward 'exact_match'",
        ),
    ],
)
def test_a_plugin_that_does_not_load_fails_its_first_check(
    text: str, claim: str, part: str, tmp_path: Path
) -> None:
    (check,) = conformance.check(write(tmp_path, text))
    assert check.claim == claim
    assert part in str(check.problem)


def test_the_command_says_what_holds(tmp_path: Path, capsys: Any) -> None:
    good = write(tmp_path, GOOD)
    assert main(["plugins", "check", good]) == 0
    shown = capsys.readouterr().out
    assert "ok  scores an empty batch" in shown
    assert shown.endswith("22 of 22 checks hold\n")
    assert main(["plugins", "check", good, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"item", "claim", "problem"} == set(rows[0])
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"solution": "B"}\n')
    capsys.readouterr()
    assert main(["plugins", "check", "deepseek-rewards-match"]) == 1
    assert "is a letter, not '4'" in capsys.readouterr().out
    assert main(["plugins", "check", "deepseek-rewards-match", "--data", str(rows)]) == 0
    bad = write(tmp_path, "import no_such_module\n")
    assert main(["plugins", "check", bad]) == 1
    assert "NO  loads" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "no-such-plugin"], "no installed plugin or distribution is called"),
        (["check", "nowhere.py"], "'nowhere.py' does not exist"),
        (["check"], "unexpected argument 'check'"),
        (["chekc", "x"], "unexpected argument 'chekc'"),
    ],
)
def test_a_wrong_target_is_one_message(words: list[str], message: str, capsys: Any) -> None:
    assert main(["plugins", *words]) == 2
    assert message in capsys.readouterr().err
