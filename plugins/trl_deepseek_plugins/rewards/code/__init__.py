"""A reward for code that passes its tests, run where it can do no harm."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from trl_deepseek import hookimpl
from trl_deepseek.chat.reasoning import Completion, answer
from trl_deepseek.sandbox import running as sandbox
from trl_deepseek.sandbox.supervise import Limits
from trl_deepseek.types import Register

HARNESS = Path(__file__).with_name("harness.py")
SLACK = 4096  # characters of output that are kept beyond the expected ones
STARTING = 5.0  # seconds for the sandbox and Python to start

_BLOCK = re.compile(r"^```[ \t]*(\w*)[^\n]*\n(.*?)(?:^```|\Z)", re.MULTILINE | re.DOTALL)


@hookimpl
def register_rewards(register: Register) -> None:
    register("code_tests", code_tests, columns=("tests",), timeout=3600.0, runs_code=True)


def code_tests(
    completions: Sequence[Completion],
    tests: Sequence[Any],
    generation_prefix: str | None = None,
    seconds: float = 6.0,
    memory: int = 1 << 30,
    allow_unsandboxed_code: bool = False,
    **_: object,
) -> list[float | None]:
    r"""The share of its tests that the answer's code passes, 0.0 to 1.0.

    The code is the last ``python`` block of the answer, or its last block where none says
    ``python``. Each test runs it anew: ``{"input": ..., "output": ...}`` as a program, whose
    standard output must be the expected one, line by line, but for white space at the ends of
    lines and of the whole; a text as a module, after which the text (assert statements) must run
    through. Code that ends early, hangs or passes a limit fails that test. No code scores 0.0.
    Abstains where there are no tests.

    It runs in a sandbox (:mod:`trl_deepseek.sandbox.running`). The expected outputs never enter
    it, so a program cannot look them up; assert statements run inside the code's own interpreter,
    which a solution that sets out to can deceive.

    Range: 0.0 to 1.0.

    Source: the two forms of tests of APPS (arXiv:2105.09938) and HumanEval (arXiv:2107.03374).

    Differs: open-r1's compares only as many lines as there are, so that output cut short passes.

    Args:
        completions: TRL's.
        tests: Per sample, a list of tests, or JSON of one.
        generation_prefix: What the prompt has opened.
        seconds: Wall time and processor time for each test.
        memory: Bytes for each test.
        allow_unsandboxed_code: Run it with this user's rights where there is no sandbox. Passed
            by our trainer from the option of that name.

    Raises:
        ConfigError: There is no sandbox, and running without is not allowed.
        ValueError: A test has neither form.
    """
    jobs: list[tuple[str, str] | None] = []
    for completion, given in zip(completions, tests, strict=True):
        wanted = json.dumps(_tests(given), sort_keys=True)
        jobs.append(
            (_code(answer(completion, generation_prefix)), wanted) if wanted != "[]" else None
        )
    distinct = list(dict.fromkeys(job for job in jobs if job and job[0].strip()))
    if distinct and not allow_unsandboxed_code:
        sandbox.require()

    def run(job: tuple[str, str]) -> float:
        return _share(job[0], json.loads(job[1]), seconds, memory, allow_unsandboxed_code)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shares = dict(zip(distinct, pool.map(run, distinct), strict=True))
    return [None if job is None else shares.get(job, 0.0) for job in jobs]


def _code(given: str) -> str:
    """The last Python block of an answer; empty where it has no block."""
    blocks = [(tag.lower(), code) for tag, code in _BLOCK.findall(given)]
    python = [code for tag, code in blocks if tag in ("python", "python3", "py")]
    return (python or [code for _, code in blocks] or [""])[-1]


def _tests(given: Any) -> list[Any]:
    """One sample's tests in one of the two forms.

    Raises:
        ValueError: They are in neither.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            given = [given]  # assert statements in one text
    tests = [given] if isinstance(given, (str, Mapping)) else list(given or [])
    for test in tests:
        if isinstance(test, Mapping) and {"input", "output"} <= test.keys():
            continue
        if not isinstance(test, str):
            raise ValueError(
                "a test is {'input': ..., 'output': ...} or a text of assert statements, "
                f"not {test!r}"
            )
    return tests


def _share(
    code: str, tests: list[Any], seconds: float, memory: int, allow_unsandboxed: bool
) -> float:
    """Run every test in one sandbox; what does not come back has failed."""
    token = os.urandom(16).hex()
    expected = [None if isinstance(test, str) else str(test["output"]) for test in tests]
    keep = [len(output or "") + SLACK for output in expected]
    job = {
        "code": code,
        "seconds": seconds,
        "token": token,
        "tests": [
            {"assert": test} if isinstance(test, str) else {"input": str(test["input"])}
            for test in tests
        ],
        "keep": keep,
    }
    limits = Limits(
        wall_time=seconds * len(tests) + STARTING,
        cpu_time=seconds + 1,
        memory=memory,
        output=6 * sum(keep) + (1 << 16),  # a character takes up to six bytes as JSON
    )
    outcome = sandbox.run_python(
        HARNESS.read_text(), json.dumps(job), limits, allow_unsandboxed=allow_unsandboxed
    )
    passed = 0
    for line in outcome.stdout.splitlines():
        index, said = json.loads(line)
        if expected[index] is None:
            passed += said == token
        else:
            passed += said is not None and _lines(said) == _lines(expected[index] or "")
    return passed / len(tests)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
