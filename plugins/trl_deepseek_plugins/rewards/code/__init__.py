"""A reward for code that passes its tests, run where it can do no harm."""

from __future__ import annotations

import ast
import json
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from trl_deepseek import hookimpl
from trl_deepseek.chat.reasoning import Completion, answer, text
from trl_deepseek.rewards.columns import options_from_columns
from trl_deepseek.sandbox import running as sandbox
from trl_deepseek.sandbox.supervise import Limits
from trl_deepseek.types import Register
from trl_deepseek_plugins.rewards.code.extraction import Fence, extract
from trl_deepseek_plugins.rewards.code.formats import COLUMNS, Test, check_tests, read_tests
from trl_deepseek_plugins.rewards.code.inside import wire
from trl_deepseek_plugins.rewards.code.reading import TestsError, brought_by, defined_in

STARTING = 5.0  # seconds for the sandbox and Python to start

logger = logging.getLogger(__name__)


@hookimpl
def register_rewards(register: Register) -> None:
    register("code_tests", code_tests, timeout=3600.0, runs_code=True, check_row=check_tests)


@options_from_columns("seconds", "memory", "fence", "all_or_nothing", "tolerance")
def code_tests(
    completions: Sequence[Completion],
    tests: Sequence[Any] | None = None,
    prompts: Sequence[Any] | None = None,
    generation_prefix: str | None = None,
    seconds: float = 6.0,
    memory: int = 1 << 30,
    fence: Fence = "last",
    all_or_nothing: bool = False,
    tolerance: float = 0.0,
    allow_unsandboxed_code: bool = False,
    **columns: Any,
) -> list[float | None]:
    r"""The share of its tests that the answer's code passes, 0.0 to 1.0.

    The code is the last ``python`` block of the answer that defines what the tests use, else the
    last; or its last block where none says ``python``. Each test runs it anew: as a program, whose
    standard output must be the expected one, line by line, but for white space at the ends of lines
    and of the whole and for ``tolerance`` (:mod:`.comparing`); as a function, which must return the
    expected value; or as a module, on which a text of asserts, pytest or unittest must run through.
    Code that ends early, hangs or passes a limit fails that test. No code scores 0.0. Abstains
    where there are no tests, or none that test anything.

    It runs in a sandbox (:mod:`trl_deepseek.sandbox.running`), and in a process of its own there:
    the expected outputs and the text of the tests never enter it, and what it returns comes back
    as plain values, so no ``__eq__`` of its own decides.

    Range: 0.0 to 1.0.

    Source: the forms of tests of HumanEval (arXiv:2107.03374), MBPP (arXiv:2108.07732), APPS
    (arXiv:2105.09938), CodeContests (arXiv:2203.07814) and LiveCodeBench (arXiv:2403.07974).

    Differs: open-r1's compares only as many lines as there are, so that output cut short passes;
    see :mod:`.comparing` for how the others compare numbers.

    Args:
        completions: TRL's.
        tests: Per sample, its tests; None where the columns of another format bring them.
        prompts: TRL's; a function that a test uses and the prompt defines is the prompt's.
        generation_prefix: What the prompt has opened.
        seconds: Wall time and processor time for each test.
        memory: Bytes for each test.
        fence: Which of several blocks: ``last``, ``first``, ``longest``, or ``all`` in one.
        all_or_nothing: 1.0 where all tests pass, else 0.0.
        tolerance: Largest difference of a decimal number in a program's output, such as 1e-6; of
            numbers beyond 1 as a share of them. None is allowed unless it is given.
        allow_unsandboxed_code: Run it with this user's rights where there is no sandbox. Passed
            by our trainer from the option of that name.
        columns: The columns of a format that :mod:`.formats` lists.

    Raises:
        ConfigError: There is no sandbox, and running without is not allowed.
        ValueError: ``fence`` is none of the four.
    """
    given = {name: values for name, values in columns.items() if name in COLUMNS}
    if tests is not None:
        given["tests"] = tests
    jobs: list[tuple[str, str] | None] = []
    read: dict[str, list[Test]] = {}
    before: dict[str, str] = {}
    for index, completion in enumerate(completions):
        row = {name: values[index] for name, values in given.items()}
        key = json.dumps(row, sort_keys=True, default=repr)
        prompt = None if prompts is None else _code_of(_last_message(prompts[index]))
        key = f"{key}\n{prompt}"
        if key not in read:
            read[key] = _tests(row, prompt)
            before[key] = brought_by(prompt or "", _names(read[key]))
        names = _names(read[key])
        code = extract(answer(completion, generation_prefix), fence, names)
        jobs.append((code, key) if read[key] else None)
    distinct = list(dict.fromkeys(job for job in jobs if job and job[0].strip()))
    if distinct and not allow_unsandboxed_code:
        sandbox.require()

    def run(job: tuple[str, str]) -> float:
        limits = (seconds, memory, tolerance)
        code, key = job
        return _share(before[key], code, read[key], *limits, allow_unsandboxed_code)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        shares = dict(zip(distinct, pool.map(run, distinct), strict=True))
    scores = [None if job is None else shares.get(job, 0.0) for job in jobs]
    if all_or_nothing:
        return [None if score is None else float(score == 1.0) for score in scores]
    return scores


def _tests(row: Mapping[str, Any], prompt: str | None) -> list[Test]:
    """The tests of a row; none, with a warning, where they cannot be read."""
    try:
        tests = read_tests(row)
    except TestsError as error:
        logger.warning("code_tests abstains: %s", error)
        return []
    return [_with_prompt(test, prompt) for test in tests] if prompt else tests


def _last_message(prompt: Any) -> str:
    """The text of a prompt, of a conversation its last message's."""
    if isinstance(prompt, str) or not prompt:
        return prompt or ""
    return text([{**prompt[-1], "role": "assistant"}])


def _code_of(prompt: str) -> str:
    """The code of a prompt: all of it, or what stands in its fences."""
    try:
        ast.parse(prompt)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return extract(prompt)
    return prompt


def _with_prompt(test: Test, prompt: str) -> Test:
    """A test that takes from the prompt, not from the program, what the prompt defines."""
    if test.job["kind"] != "text":
        return test
    others = [name for name in test.job["names"] if name != test.job["call"]]
    source = defined_in(prompt, others) if others else ""
    return Test({**test.job, "setup": f"{test.job['setup']}\n{source}"}) if source else test


def _names(tests: Sequence[Test]) -> set[str]:
    return {name for test in tests for name in test.names}


def _share(
    before: str,
    code: str,
    tests: Sequence[Test],
    seconds: float,
    memory: int,
    tolerance: float,
    allow_unsandboxed: bool,
) -> float:
    """Run every test in one sandbox; what does not come back has failed."""
    job = {
        "before": before,
        "code": code,
        "seconds": seconds,
        "tests": [test.job for test in tests],
    }
    limits = Limits(
        wall_time=seconds * len(tests) + STARTING,
        cpu_time=seconds + 1,
        memory=memory,
        output=wire.OUTPUT,
    )
    outcome = sandbox.run_python(
        _harness(), json.dumps(job), limits, allow_unsandboxed=allow_unsandboxed
    )
    passed = set()
    for line in outcome.stdout.splitlines():
        try:
            index, result = json.loads(line)
            if tests[index].passed(result, tolerance):
                passed.add(index)
        except (ValueError, TypeError, LookupError, RecursionError):
            continue  # a line that was cut: that test has failed
    return len(passed) / len(tests)


@lru_cache(maxsize=1)
def _harness() -> str:
    """The files that run inside as one program; it can import nothing of ours there."""
    package = f"{__name__}.inside"
    parents = [package.rsplit(".", left)[0] for left in range(package.count(".") + 1)]
    files = Path(__file__).with_name("inside").glob("[a-z]*.py")
    sources = {f"{package}.{file.stem}": file.read_text() for file in files}
    return f"""
import sys
from importlib.machinery import ModuleSpec

class Sources:
    sources = {dict.fromkeys(parents, "") | sources!r}

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return ModuleSpec(name, cls, is_package=True) if name in cls.sources else None

    @staticmethod
    def create_module(spec):
        return None

    @classmethod
    def exec_module(cls, module):
        exec(compile(cls.sources[module.__name__], module.__name__, "exec"), module.__dict__)

sys.meta_path.insert(0, Sources)
from {package}.harness import main
main()
"""
