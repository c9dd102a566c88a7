from __future__ import annotations

import json
import time
from typing import Any

import pytest

from trl_deepseek.errors import ConfigError
from trl_deepseek.sandbox import running as sandbox
from trl_deepseek_plugins.rewards.code import code_tests

needs_sandbox = pytest.mark.skipif(
    sandbox.unavailable() is not None, reason=f"no sandbox here: {sandbox.unavailable()}"
)


def block(code: str, tag: str = "python") -> str:
    return f"Here it is:\n```{tag}\n{code}\n```\nDone."


def as_messages(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


DOUBLE = "n = int(input())\nprint(2 * n)"
DOUBLED = [{"input": "1\n", "output": "2\n"}, {"input": "21", "output": "42"}]
ADD = "def add(a, b):\n    return a + b"
ADDED = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0\nassert add(0, 0) == 0"]


@needs_sandbox
@pytest.mark.parametrize("wrap", [str, as_messages], ids=["strings", "messages"])
@pytest.mark.parametrize(
    ("completion", "tests", "score"),
    [
        (block(DOUBLE), DOUBLED, 1.0),
        (block("print(2)"), DOUBLED, 0.5),
        (block("print(3)"), DOUBLED, 0.0),
        (block("if __name__ == '__main__':\n    print(2 * int(input()))"), DOUBLED, 1.0),
        (block("import sys\nprint(2 * int(input()))\nsys.exit()"), DOUBLED, 1.0),
        (block("import sys\nprint(2 * int(input()))\nsys.exit(3)"), DOUBLED, 0.0),
        (block("print(2 * int(input()))\nraise ValueError"), DOUBLED, 0.0),
        (block("print(2 * int(input()), '   ')\nprint()"), DOUBLED, 1.0),
        (block("print(0)\nprint(2 * int(input()))"), DOUBLED, 0.0),
        (block("print(2 * int(input()), end='')"), [{"input": 4, "output": 8}], 1.0),
        (block("print('1 2')\nprint('3')"), [{"input": "", "output": "1 2\n3\n4\n"}], 0.0),
        (block("def broken("), DOUBLED, 0.0),
        (block("import sys\nsys.stdout.write(str(2 * int(sys.stdin.read())))"), DOUBLED, 1.0),
        (
            block(
                "import threading\nn = int(input())\n"
                "def later():\n    import time\n    time.sleep(0.1)\n    print(2 * n)\n"
                "threading.Thread(target=later).start()"
            ),
            DOUBLED,
            1.0,
        ),
        (
            block(
                "import io, os, sys\nout = sys.stdout = io.StringIO()\nprint(2 * int(input()))\n"
                "os.write(1, out.getvalue().encode())"
            ),
            DOUBLED,
            1.0,
        ),
        (
            block("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int"),
            ["def check(c):\n    assert c(3).x == 3\ncheck(P)"],
            1.0,
        ),
        (block(ADD), ADDED, 1.0),
        (block("def add(a, b):\n    return 3"), ADDED, 0.5),
        (block(ADD), "assert add(1, 2) == 3", 1.0),
        (block(ADD), json.dumps(ADDED), 1.0),
        (block(DOUBLE), json.dumps(DOUBLED), 1.0),
        (block(ADD), [*ADDED, "assert missing()"], 2 / 3),
        (block(ADD, ""), ADDED, 1.0),
        (block(ADD, "py"), ADDED, 1.0),
        (block(ADD, "Python"), ADDED, 1.0),
        (block("nonsense") + "\n" + block(ADD), ADDED, 1.0),
        (block(ADD) + "\n" + block("echo", "bash"), ADDED, 1.0),
        (f"```python\n{ADD}", ADDED, 1.0),  # cut off after the code
        (f"<think>{block('nonsense')}</think>{block(ADD)}", ADDED, 1.0),
        (f"<think>{block(ADD)}</think>no code", ADDED, 0.0),
        (f"<think>{block(ADD)}", ADDED, 0.0),
        (ADD, ADDED, 0.0),
        ("", ADDED, 0.0),
        (block(ADD), [], None),
        (block(ADD), None, None),
    ],
)
def test_it_scores_the_share_of_tests_passed(
    wrap: Any, completion: str, tests: Any, score: float | None
) -> None:
    expected = score if score is None else pytest.approx(score)
    assert code_tests([wrap(completion)], [tests]) == [expected]


@needs_sandbox
@pytest.mark.parametrize(
    "code",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "import builtins\nbuiltins.AssertionError = BaseException\nraise SystemExit",
        "print('passed')\nprint([0, 'passed'])",
        "import os\nos.write(1, b'[0, \"2\"]\\n')\nos.kill(os.getppid(), 9)",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()\n1 / 0",
    ],
)
def test_leaving_early_or_shouting_is_not_passing(code: str) -> None:
    assert code_tests([block(code)] * 2, [ADDED, DOUBLED]) == [0.0, 0.0]


@needs_sandbox
def test_each_test_has_its_own_limits_and_the_others_still_count() -> None:
    code = """
n = int(input())
if n == 1:
    while True: pass
if n == 2:
    hoard = bytearray(10 << 30)
if n == 3:
    while True: print("x" * 1000)
if n == 4:
    import os
    while True: os.fork()
print(n)
"""
    tests = [{"input": str(n), "output": str(n)} for n in range(6)]
    start = time.perf_counter()
    assert code_tests([block(code)], [tests], seconds=1.0) == [pytest.approx(2 / 6)]
    assert time.perf_counter() - start < 120


@needs_sandbox
def test_a_test_does_not_see_what_another_left_behind() -> None:
    code = "import os\nprint(os.path.exists('mark'))\nopen('/tmp/mark', 'w').close()"
    tests = [{"input": "", "output": "False"}]
    assert code_tests([block(code)] * 2, [tests, tests]) == [1.0, 1.0]


@needs_sandbox
def test_a_large_output_is_compared_whole() -> None:
    code = "for i in range(50_000): print(i)"
    wanted = "\n".join(map(str, range(50_000)))
    tests = [{"input": "", "output": wanted}, {"input": "", "output": wanted[:-1] + "8"}]
    assert code_tests([block(code)], [tests]) == [0.5]


@needs_sandbox
def test_expected_outputs_do_not_enter_the_sandbox() -> None:
    # The control: it does find what is there, such as its own input.
    code = """
import gc, os, sys
text = repr([o for o in gc.get_objects() if isinstance(o, (dict, list, tuple))][:20000])
files = [open(n).read() for n in os.listdir('.') if os.path.isfile(n)]
needle = ''.join(['needle', '-in-', 'output'])
print(needle if needle in text + repr(files) else 'nothing')
"""
    assert code_tests([block(code)], [[{"input": "", "output": "needle-in-output"}]]) == [0.0]
    assert code_tests([block(code)], [[{"input": "", "output": "nothing"}]]) == [1.0]
    seen = [{"input": "needle-in-output", "output": "needle-in-output"}]
    assert code_tests([block(code)], [seen]) == [1.0]


def test_a_test_of_no_known_form_is_refused() -> None:
    with pytest.raises(ValueError, match="a test is"):
        code_tests([block(ADD)], [[{"in": 1}]])


def test_without_a_sandbox_it_refuses_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    sandbox.unavailable.cache_clear()
    try:
        with pytest.raises(ConfigError, match="apt-get install bubblewrap"):
            code_tests([block(ADD)], [ADDED])
        assert code_tests([block(ADD)], [ADDED], allow_unsandboxed_code=True) == [1.0]
    finally:
        sandbox.unavailable.cache_clear()
