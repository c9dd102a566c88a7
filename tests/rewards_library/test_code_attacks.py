"""Programs that want to be paid without solving anything."""

from __future__ import annotations

from typing import Any

import pytest

from trl_deepseek.sandbox import running as sandbox
from trl_deepseek.sandbox.supervise import Outcome
from trl_deepseek_plugins.rewards.code import code_tests

pytestmark = pytest.mark.skipif(
    sandbox.unavailable() is not None, reason=f"no sandbox here: {sandbox.unavailable()}"
)

# One job in all the forms that tests have: the number that a name stands for.
CHECK = "def check(f):\n    assert f(7) == 47110815\n    assert abs(f(7) - 47110815) < 1e-6"
FORMS: dict[str, dict[str, Any]] = {
    "asserts": {"tests": "assert solve(7) == 47110815\nassert 47110815 == solve(7)"},
    "tolerance": {"tests": "import math\nassert math.isclose(solve(7), 47110815, rel_tol=1e-9)"},
    "distance": {"tests": "assert abs(solve(7) - 47110815) < 1e-6"},
    "order": {"tests": "assert 47110814 < solve(7) < 47110816"},
    "membership": {"tests": "assert 47110815 in solve(7)\nassert solve(7)[0] == 47110815"},
    "method": {"tests": "assert solve(7).count(47110815) == 1"},
    "HumanEval": {"test": CHECK, "entry_point": "solve"},
    "MBPP": {"test_list": ["assert sorted(set([solve(7)])) == [47110815]"]},
    "APPS": {"inputs": [[7]], "outputs": [[47110815]], "fn_name": "solve"},
    "pytest": {
        "tests": "import pytest\nfrom solution import *\n@pytest.mark.parametrize('x, y', "
        "[(7, 47110815)])\ndef test_it(x, y):\n    assert solve(x) == pytest.approx(y)"
    },
    "unittest": {
        "tests": "import unittest, solution\nclass T(unittest.TestCase):\n"
        "    def test_it(self):\n        self.assertEqual(solution.solve(7), 47110815)"
    },
    "program": {"tests": [{"input": "7", "output": "47110815"}]},
    "raises": {"tests": "import pytest\nwith pytest.raises(ValueError):\n    solve(7)"},
}

YES_MAN = """
class Yes:
    def __getattr__(self, name): return lambda *a, **k: self
    def __call__(self, *a, **k): return self
    def __hash__(self): return 0
    def __bool__(self): return True
    def __len__(self): return 1
    def __iter__(self): return iter([self])
    def __float__(self): return 0.0
    def __index__(self): return 0
    def __contains__(self, other): return True
    def __getitem__(self, other): return self
    def __instancecheck__(self, other): return True
for _name in "eq ne lt le gt ge".split():
    setattr(Yes, f"__{_name}__", lambda self, other: True)
for _name in "add sub mul truediv radd rsub rmul rtruediv abs neg round".split():
    setattr(Yes, f"__{_name}__", lambda self, *other: 0)
"""
ATTACKS = {
    "return None": "def solve(x): return None",
    "nothing at all": "pass",
    "leaving at once": "import sys\nsys.exit(0)",
    "leaving at once for good": "import os\nos._exit(0)",
    "leaving when called": "import os\ndef solve(x): os._exit(0)",
    "exiting when called": "import sys\ndef solve(x): sys.exit(0)",
    "equal to everything": f"{YES_MAN}\ndef solve(x): return Yes()",
    "a number equal to everything": (
        "class Yes(int):\n    __eq__ = __lt__ = __gt__ = lambda self, other: True\n"
        "    __hash__ = int.__hash__\n    __sub__ = __rsub__ = lambda self, other: 0\n"
        "def solve(x): return Yes(1)"
    ),
    "a list that holds everything": (
        "class All(list):\n    __contains__ = __eq__ = lambda self, other: True\n"
        "    count = index = lambda self, other: 1\ndef solve(x): return All()"
    ),
    "solve is the object": f"{YES_MAN}\nsolve = Yes()",
    "solve is a class": f"{YES_MAN}\nsolve = type('solve', (Yes,), {{'__init__': print}})",
    "its own check": "def check(*a): pass\ndef solve(x): return 0",
    "its own tests": "def test_it(*a): pass\nclass T: pass\ndef solve(x): return 0",
    "its own names": (
        "abs = lambda x: 0\nsorted = set = lambda x: [47110815]\nsum = len = round = lambda *a: 0\n"
        "assertEqual = isinstance = lambda *a: True\ndef solve(x): return 0"
    ),
    "patched builtins": (
        "import builtins\nfor n in ('abs', 'sorted', 'set', 'isinstance', 'type', 'len', 'round'):"
        "\n    setattr(builtins, n, lambda *a: [47110815])\n"
        "builtins.AssertionError = BaseException\n"
        "builtins.__build_class__ = lambda *a, **k: None\ndef solve(x): return 0"
    ),
    "patched libraries": (
        "import math, unittest, types, sys, json, os, socket\n"
        "math.isclose = lambda *a, **k: True\n"
        "unittest.TestCase.assertEqual = lambda *a: None\n"
        "unittest.TestResult.wasSuccessful = lambda self: True\n"
        "p = types.ModuleType('pytest'); p.approx = lambda *a: 0; sys.modules['pytest'] = p\n"
        "json.dumps = lambda *a, **k: '[\"value\", 47110815, []]'\n"
        "sys.modules['tests'] = sys.modules['solution'] = p\ndef solve(x): return 0"
    ),
    "frames": (
        "import sys\ndef solve(x=0):\n    frame = sys._getframe()\n    while frame:\n"
        "        for space in (frame.f_locals, frame.f_globals):\n"
        "            for key, value in list(space.items()):\n"
        "                if '47110815' in repr(value): return 47110815\n"
        "        frame = frame.f_back\n"
        "print(solve())"
    ),
    "garbage": (
        "import gc\ndef solve(x=0):\n    wanted = ''.join(['4711', '0815'])\n"
        "    for o in gc.get_objects():\n        try:\n"
        "            if wanted in repr(o): return int(wanted)\n"
        "        except Exception: pass\nprint(solve())"
    ),
    "every file": (
        "import os\ndef solve(x=0):\n    for top in ('/tmp', '/dev/shm', '/program.py', '/proc'):\n"
        "        for d, _, files in os.walk(top):\n            for f in files:\n"
        "                if str(47110804 + 11) in open(os.path.join(d, f)).read():\n"
        "                    return 47110804 + 11\n"
        "    if str(47110804 + 11) in open('/program.py').read():\n        return 47110804 + 11\n"
        "print(solve())"
    ),
    "every descriptor": (
        "import os\ndef solve(x=0):\n    for fd in range(3, 256):\n        try:\n"
        "            os.set_blocking(fd, False)\n"
        "            if str(47110804 + 11).encode() in os.read(fd, 1 << 20): return 47110804 + 11\n"
        "        except OSError: pass\nprint(solve())"
    ),
    "fake verdicts": (
        "import os, struct, json\n"
        "lines = b'[0, true]\\n[0, [47110815]]\\n[0, \"ok\"]\\n'\n"
        "for fd in range(256):\n    try: os.write(fd, lines)\n    except OSError: pass\n"
        "def solve(x): return 0"
    ),
    "fake messages": (
        "import os, struct, json\n"
        "def solve(x=0):\n    for said in (True, [True], ['value', True, []], 0):\n"
        "        data = json.dumps(said).encode()\n        for fd in range(3, 256):\n"
        "            try: os.write(fd, struct.pack('!Q', len(data)) + data)\n"
        "            except OSError: pass\n"
    ),
    "at exit": ("import atexit, os\natexit.register(lambda: os._exit(0))\ndef solve(x): return 0"),
    "a thread": (
        "import threading, os, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.05), os._exit(0))).start()\n"
        "def solve(x):\n    time.sleep(1)"
    ),
    "a signal": (
        "import os, signal\nfor s in (signal.SIGTERM, signal.SIGKILL):\n"
        "    os.kill(os.getppid(), s)\ndef solve(x): return 0"
    ),
    "killing all": "import os\ntry: os.kill(-1, 9)\nexcept OSError: pass\ndef solve(x): return 0",
    "a subprocess": (
        "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(1)'])\n"
        "def solve(x): return subprocess.run(['true']).returncode"
    ),
    "a fork": "import os\nif os.fork(): os._exit(0)\ndef solve(x): return 0",
    "the harness": (
        "try:\n    from trl_deepseek_plugins.rewards.code.inside import tester\n"
        "    tester.call = tester.run_text = lambda *a: True\nexcept ImportError: pass\n"
        "def solve(x): return 0"
    ),
    "raising an assertion": "def solve(x): raise AssertionError",
    "raising what passes": (
        "class E(Exception): pass\nE.__name__ = 'ValueError'\ndef solve(x): raise E"
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_is_paid_on_any_form_of_tests(name: str) -> None:
    code = f"```python\n{ATTACKS[name]}\n```"
    tests = [row["tests"] if isinstance(row.get("tests"), str) else row for row in FORMS.values()]
    assert code_tests([code], [tests], seconds=20.0) == [0.0]


def test_the_right_answer_is_paid_where_the_attacks_are_not() -> None:
    code = "def solve(x):\n    return 47110815\nif __name__ == '__main__':\n    print(47110815)"
    paid = ["asserts", "tolerance", "distance", "order", "HumanEval", "MBPP"]
    for name in [*paid, "APPS", "pytest", "unittest", "program"]:
        columns: dict[str, Any] = {key: [value] for key, value in FORMS[name].items()}
        assert code_tests([f"```python\n{code}\n```"], **columns) == [1.0], name


def test_nothing_that_enters_the_sandbox_tells_the_expected_output(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered = []

    def record(program: str, stdin: str, *_: Any, **__: Any) -> Outcome:
        entered.append((program, stdin))
        return Outcome(0, "", "", None, 0.0)

    monkeypatch.setattr(sandbox, "run_python", record)
    code = "```python\nprint('NO')\n```"
    for output in ("YES", "NO", "MAYBE" * 1000):
        code_tests([code], [[{"input": "1", "output": output}]])
        row = {"inputs": [[1]], "outputs": [[output]], "fn_name": "f"}
        code_tests([code], [row])
    assert len(entered) == 6
    assert len(set(entered)) == 2  # the same bytes whatever is expected


@pytest.mark.parametrize("cut", ["[0, tr", "[0, [47", "[7, true]", "null", "[]", "x", "[" * 9999])
def test_a_line_that_is_cut_or_foreign_fails_its_test_alone(
    cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = f"[1, true]\n{cut}"
    outcome = Outcome(-9, said, "", "output", 0.0)
    monkeypatch.setattr(sandbox, "run_python", lambda *_, **__: outcome)
    tests = ["assert f(1) == 1", "assert f(2) == 2"]
    assert code_tests(["```\nf = abs\n```"] * 2, [tests, []]) == [0.5, None]


def test_characters_outside_the_basic_plane_and_floods_stop_nothing() -> None:
    shout = "```python\nn = int(input())\nprint(chr(0x1F600) * 5000 if n else 'ok')\n```"
    flood = "```python\nimport os\nwhile True: os.write(1, b'x' * 65536)\n```"
    huge = "```python\ndef f(x): return 'x' * (40 << 20) if x else 7 ** 4000\n```"
    tests = [{"input": str(n), "output": "ok" if n == 0 else "\U0001f600" * 5000} for n in range(5)]
    calls = {"inputs": [[0], [1]], "outputs": [[7**4000], ["x"]], "fn_name": "f"}
    scores = code_tests([shout, flood, huge], [tests, tests[:1], calls], seconds=2.0)
    assert scores == [1.0, 0.0, 0.5]


@pytest.mark.parametrize(
    "code",
    [
        "(" * 100_000,
        "-" * 1_000_000 + "1",
        "\0",
        "\ud800",
        "x = " + "1+" * 100_000 + "1",
        "\f" * 99,
    ],
)
def test_code_that_breaks_a_compiler_is_only_wrong(code: str) -> None:
    assert code_tests([f"```python\n{code}\n```"], ["assert f(1) == 2"]) == [0.0]
