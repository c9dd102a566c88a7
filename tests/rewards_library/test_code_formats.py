"""The forms of tests in public datasets, and the forms of answers in which models write code."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from typing import Any

import pytest

from trl_deepseek.errors import DataError
from trl_deepseek.rewards import check_rows
from trl_deepseek.sandbox import running as sandbox
from trl_deepseek.types import Reward
from trl_deepseek_plugins.rewards.code import code_tests
from trl_deepseek_plugins.rewards.code.extraction import extract
from trl_deepseek_plugins.rewards.code.formats import check_tests

needs_sandbox = pytest.mark.skipif(
    sandbox.unavailable() is not None, reason=f"no sandbox here: {sandbox.unavailable()}"
)


def score(code: str, row: dict[str, Any]) -> float | None:
    """One row's columns for one completion."""
    columns: dict[str, Any] = {key: [row[key]] for key in row}
    (found,) = code_tests([f"```python\n{code}\n```"], **columns)
    return found


ADD = "def add(a, b):\n    return a + b"
NOT_ADD = "def add(a, b):\n    return 3"
DOUBLE = "print(2 * int(input()))"
NOT_DOUBLE = "print(2)"
SOLUTION = "class Solution:\n    def add(self, a, b):\n        return a + b"
NOT_SOLUTION = "class Solution:\n    def add(self, a, b):\n        return 3"
STACK = """
class Empty(Exception): pass
class Stack:
    def __init__(self): self.items = []
    def push(self, item): self.items.append(item)
    def pop(self):
        if not self.items: raise Empty("nothing there")
        return self.items.pop()
    def __len__(self): return len(self.items)
    def __add__(self, other):
        both = Stack(); both.items = self.items + other.items; return both
    def __eq__(self, other): return isinstance(other, Stack) and self.items == other.items
"""
NOT_STACK = STACK.replace("self.items.append(item)", "pass")
PRIVATE = base64.b64encode(
    zlib.compress(
        pickle.dumps(json.dumps([{"input": "3\n4", "output": "7", "testtype": "functional"}]))
    )
).decode()
PYTEST = """
import pytest
from solution import add

@pytest.fixture
def five():
    yield 5

@pytest.mark.parametrize("a, b, total", [(1, 2, 3), pytest.param(-1, 1, 0)])
def test_sums(a, b, total):
    assert add(a, b) == total

class TestMore:
    def test_fixture(self, five):
        assert add(five, 0) == pytest.approx(5.0)

def test_types():
    with pytest.raises(TypeError, match="unsupported"):
        add(1, None)
"""
UNITTEST = """
import unittest
from solution import add

class AddTest(unittest.TestCase):
    def setUp(self):
        self.two = 2
    def test_sum(self):
        self.assertEqual(add(self.two, 2), 4)
    def test_error(self):
        with self.assertRaises(TypeError):
            add(1, None)

if __name__ == "__main__":
    unittest.main()
"""
CLASSES = """
stack = Stack()
assert isinstance(stack, Stack) and len(stack) == 0
stack.push(1); stack.push([2])
other = Stack(); other.push(3)
assert len(stack + other) == 3 and stack != other
assert stack.pop() == [2] and stack.items == [1]
try:
    Stack().pop()
    assert False
except Empty as error:
    assert "nothing" in str(error)
"""
ROWS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "HumanEval": (
        *(ADD, NOT_ADD),
        {"test": "def check(f):\n    assert f(1, 3) == 4", "entry_point": "add"},
    ),
    "LeetCode": (
        *(SOLUTION, NOT_SOLUTION),
        {"test": "def check(f):\n    assert f(a=1, b=3) == 4", "entry_point": "Solution().add"},
    ),
    "MBPP": (
        *(ADD, NOT_ADD),
        {
            "test_list": ["assert add(1, 3) == 4"],
            "challenge_test_list": ["assert add(ceil(0.5), 0) == 1"],
            "test_setup_code": "from math import ceil",
        },
    ),
    "MBPP with a name of Python's": (
        *("def sum(a, b):\n    return a + b", "def sum(a, b):\n    return 0"),
        {"test_list": ["assert sum(10, 15) == 25"]},
    ),
    "APPS programs": (DOUBLE, "print(3)", {"inputs": ["1\n", "2"], "outputs": ["2\n", "4"]}),
    "APPS lists of lines": (
        *("print(input() + input())", "print(input())"),
        {"inputs": [["a", "b"]], "outputs": [["ab"]]},
    ),
    "APPS functions": (
        *(ADD, NOT_ADD),
        {"inputs": [[1, 3], ["a", "b"]], "outputs": [[4], ["ab"]], "fn_name": "add"},
    ),
    "APPS JSON": (
        *(SOLUTION, NOT_SOLUTION),
        {"input_output": '{"fn_name": "add", "inputs": [[1, 3]], "outputs": [4]}'},
    ),
    "CodeContests": (
        *(DOUBLE, "print(3)"),
        {
            "public_tests": {"input": ["1\n"], "output": ["2\n"]},
            "generated_tests": {"input": ["2\n", "4"], "output": ["4\n", "8"]},
        },
    ),
    "LiveCodeBench programs": (
        *(DOUBLE, "print(3)"),
        {"public_test_cases": '[{"input": "1\\n", "output": "2\\n", "testtype": "stdin"}]'},
    ),
    "LiveCodeBench functions": (
        *(SOLUTION, NOT_SOLUTION),
        {"private_test_cases": PRIVATE, "metadata": '{"func_name": "add"}'},
    ),
    "pytest": (ADD, NOT_ADD, {"tests": PYTEST}),
    "unittest": (ADD, NOT_ADD, {"tests": UNITTEST}),
    "classes": (STACK, NOT_STACK, {"tests": CLASSES}),
    "arguments that change": (
        *("def clear(x, d):\n    x.sort()\n    d['a'] = 1", "def clear(x, d): pass"),
        {"tests": "x, d = [2, 1], {}\nclear(x, d)\nassert x == [1, 2] and d == {'a': 1}"},
    ),
    "functions as arguments and results": (
        *("def twice(f):\n    return lambda x: f(f(x))", "def twice(f):\n    return f"),
        {"tests": "assert twice(lambda x: x * 3)(2) == 18 and list(map(twice(str), [1])) == ['1']"},
    ),
    "generators": (
        *("def up(n):\n    yield from range(n)", "def up(n):\n    yield n"),
        {"tests": "assert list(up(3)) == [0, 1, 2] and sum(x for x in up(3)) == 3"},
    ),
    "async": (
        *("async def add(a, b):\n    return a + b", "async def add(a, b):\n    return 3"),
        {"tests": "import asyncio\nassert asyncio.run(add(1, 3)) == 4"},
    ),
    "named tuples and enumerations": (
        "from collections import namedtuple\nfrom enum import Enum\n"
        "P = namedtuple('P', 'x y')\nclass C(Enum):\n    RED = 1\n    BLUE = 2\n"
        "def make(n):\n    return P(n, C.RED)",
        "def make(n):\n    return (n, 0)",
        {"tests": "p = make(1)\nassert p.x == 1 and p[0] == 1 and p.y == C.RED"},
    ),
}


@needs_sandbox
@pytest.mark.parametrize("name", ROWS)
def test_each_form_pays_what_is_right_and_not_what_is_wrong(name: str) -> None:
    right, wrong, row = ROWS[name]
    assert check_tests(row) is None
    assert (score(right, row), score(wrong, row)) == (1.0, 0.0)
    assert score("", row) == 0.0
    if set(row) <= {"inputs", "outputs", "fn_name"}:  # in the column ``tests`` too
        assert score(right, {"tests": json.dumps(row)}) == 1.0


@needs_sandbox
def test_all_or_nothing_pays_no_share() -> None:
    row = {"tests": ["assert add(1, 2) == 3", "assert add(1, 3) == 4"]}
    assert score(NOT_ADD, row) == 0.5
    completions = [f"```python\n{code}\n```" for code in (ADD, NOT_ADD)]
    assert code_tests(completions, [row["tests"]] * 2, all_or_nothing=True) == [1.0, 0.0]


@needs_sandbox
def test_input_and_output_have_the_same_line_ends() -> None:
    code = "import sys\nprint(repr(sys.stdin.read()))"
    assert score(code, {"tests": [{"input": "a\r\nb\r", "output": "'a\\nb\\n'\r\n"}]}) == 1.0


ASSERT_NOTHING: dict[str, tuple[dict[str, Any], str]] = {
    "blank": ({"tests": "  \n"}, "asserts nothing"),
    "a comment": ({"tests": "# add(1, 2)"}, "asserts nothing"),
    "a call": ({"tests": "add(1, 2)"}, "asserts nothing"),
    "assert True": ({"tests": "add(1, 2)\nassert True"}, "asserts nothing"),
    "nothing of the program": ({"tests": "x = 1\nassert x == 1"}, "uses nothing of the program"),
    "check without entry_point": ({"test": "def check(f):\n    assert f(1)"}, "'entry_point'"),
    "an empty check": (
        {"test": "def check(f):\n    pass", "entry_point": "add"},
        "asserts nothing",
    ),
    "never called": (
        {"tests": "def verify():\n    assert add(1, 2) == 3"},
        "defines 'verify' and never calls it",
    ),
    "unittest without methods": (
        {"tests": "import unittest\nclass A(unittest.TestCase):\n    pass"},
        "asserts nothing",
    ),
    "no Python": ({"tests": "assert ("}, "no Python"),
    "None as output": ({"tests": [{"input": "", "output": None}]}, "not None"),
    "a mapping as input": ({"tests": [{"input": {"a": 1}, "output": "1"}]}, "not {'a': 1}"),
    "no output": ({"tests": [{"input": "1", "output": " \n"}]}, "no output"),
    "None as result": ({"inputs": [[1]], "outputs": [None], "fn_name": "f"}, "None"),
    "unequal lists": ({"inputs": ["1", "2"], "outputs": ["1"]}, "2 inputs and 1 outputs"),
    "a fixture": ({"tests": "def test_a(caplog):\n    assert f()"}, "fixture 'caplog'"),
    "a missing module": ({"tests": "import torch\nassert f()"}, "'torch'"),
    "an object": (
        {
            "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(print))).decode(),
        },
        "holds an object",
    ),
    "a number": ({"test_list": 5}, "no known form"),
    "an expression of no kind": ({"test": "def check(f): assert f()", "entry_point": 3}, "form"),
    "no column": ({"solution": "1"}, "needs the column 'tests'"),
}


@pytest.mark.parametrize("name", ASSERT_NOTHING)
def test_tests_that_test_nothing_are_refused_with_the_row_and_abstain(name: str) -> None:
    row, message = ASSERT_NOTHING[name]
    assert message in str(check_tests(row))
    assert score(ADD, row) is None


def test_rows_are_named_before_training() -> None:
    reward = Reward("code", code_tests, check_row=check_tests)
    rows = [{"tests": "assert add(1, 2) == 3"}, {"tests": "add(1)"}, {"tests": "[]"}]
    with pytest.raises(DataError) as caught:
        check_rows([len, reward], rows)
    assert str(caught.value) == (
        "reward 'code' cannot score row 1: a test that asserts nothing: 'add(1)'\n"
        "  1 such rows: 1; mend them or leave them out"
    )
    check_rows([reward], rows[::2])


TRIPLE = "x = '''\n```\n'''"
ANSWERS = {
    "indented": ("1. So:\n\n   ```python\n   if 1:\n       x = 1\n   ```\n", "if 1:\n    x = 1"),
    "tildes": ("~~~python\nx = 1\n~~~", "x = 1"),
    "CRLF": ("```python\r\nx = 1\r\ny = 2\r\n```\r\n", "x = 1\ny = 2"),
    "backticks in a line": ("```python\nx = '```'\n```", "x = '```'"),
    "backticks in a string of lines": (f"```python\n{TRIPLE}\n```\n", TRIPLE),
    "backticks in a docstring": (
        '```python\ndef f():\n    """Use:\n    ```\n    f()\n    ```\n    """\n```\nThat is `f`.',
        'def f():\n    """Use:\n    ```\n    f()\n    ```\n    """',
    ),
    "a quote in a comment": (
        "```python\n# don't '''\nx = 1\n```\nThat's '''",
        "# don't '''\nx = 1",
    ),
    "four backticks": ("````python\nx = '''\n```\n'''\n````", TRIPLE),
    "never closed": ("```python\nx = 1", "x = 1"),
    "no fence": ("x = 1", ""),
    "after a list mark": ("- ```python\n  x = 1\n  ```", "x = 1"),
    "attributes": ('```python title="a.py"\nx = 1\n```', "x = 1"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_code_is_found_in_its_fence(name: str) -> None:
    answer, code = ANSWERS[name]
    assert extract(answer) == code


def test_which_of_several_blocks_is_an_option() -> None:
    answer = "```python\na\n```\n```py\nlonger\n```\n```\nuntagged and long\n```\n```python\nb\n```"
    assert extract(answer) == "b"
    assert extract(answer, "first") == "a"
    assert extract(answer, "longest") == "longer"
    assert extract(answer, "all") == "a\n\nlonger\n\nb"
    with pytest.raises(ValueError, match="must be one of last, first, longest, all"):
        extract(answer, "middle")  # type: ignore[arg-type]
