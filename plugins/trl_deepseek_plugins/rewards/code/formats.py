"""The tests of a row, in the forms that public datasets have them.

| form | columns |
|---|---|
| ours | `tests`: a list of any of these, one of them, or JSON text of either |
| assert statements, pytest, unittest | a text |
| HumanEval | `test`, `entry_point` |
| MBPP | `test_list`, `challenge_test_list`, `test_setup_code`, `test_imports` |
| APPS, TACO | `inputs`, `outputs`, `fn_name`; `input_output` as JSON of them |
| CodeContests | `public_tests`, `private_tests`, `generated_tests` |
| LiveCodeBench | `public_test_cases`, `private_test_cases`, `metadata` |
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trl_deepseek_plugins.rewards.code.comparing import equal, same_output
from trl_deepseek_plugins.rewards.code.inside import wire
from trl_deepseek_plugins.rewards.code.reading import TestsError, read_text

HUMANEVAL = ("test", "entry_point")
MBPP = ("test_list", "challenge_test_list", "test_setup_code", "test_imports")
APPS = ("input_output", "inputs", "outputs", "fn_name")
CONTESTS = ("public_tests", "private_tests", "generated_tests")
LIVECODEBENCH = ("public_test_cases", "private_test_cases", "metadata")
COLUMNS = ("tests", *HUMANEVAL, *MBPP, *APPS, *CONTESTS, *LIVECODEBENCH)
BRINGS_TESTS = (
    "tests",
    "test",
    "test_list",
    "input_output",
    "inputs",
    *CONTESTS,
    *LIVECODEBENCH[:2],
)

FORMS = "a text of Python, or {'input': ..., 'output': ...}"


@dataclass(frozen=True)
class Test:
    """One test: what the sandbox is told, and what stays here.

    Attributes:
        job: For the harness.
        expected: Values of which a function must return one; or the output, as ``wire.plain`` has
            it.
    """

    __test__ = False  # pytest would collect it

    job: Mapping[str, Any]
    expected: Any = None

    @property
    def names(self) -> set[str]:
        """What it uses of the program."""
        return (
            {self.job["function"]} if self.job["kind"] == "call" else {*self.job.get("names", ())}
        )

    def passed(self, result: Any, tolerance: float = 0.0) -> bool:
        """Whether what the harness says of it is a pass; ``tolerance`` is that of outputs."""
        if self.job["kind"] == "call":
            return result is not None and any(equal(result[0], one) for one in self.expected)
        if self.job["kind"] == "text":
            return result is True
        return result is not None and same_output(result, self.expected, tolerance)


def check_tests(row: Mapping[str, Any]) -> str | None:
    """What is wrong with the tests of a row of the dataset, or None; nothing is run.

    Tests that cannot be read, that assert nothing, or that an empty program would pass. A row
    whose tests are empty is not wrong: the reward abstains.
    """
    try:
        read_tests(row)
    except TestsError as error:
        return str(error)
    return None


def read_tests(row: Mapping[str, Any]) -> list[Test]:
    """The tests of a row; empty where it has none.

    Raises:
        TestsError: They cannot be read or test nothing.
    """
    if not any(name in row for name in BRINGS_TESTS):
        raise TestsError(f"it needs the column 'tests', or one of {', '.join(BRINGS_TESTS[1:])}")
    try:
        tests = list(_all(row))
    except (AttributeError, TypeError, LookupError, RecursionError) as error:
        raise TestsError(f"tests in no known form ({error})") from error
    programs = [test for test in tests if test.job["kind"] == "program"]
    if programs and len(programs) == len(tests) and not any(t.expected for t in programs):
        raise TestsError("tests that all expect no output, which an empty program gives")
    calls = [test for test in tests if test.job["kind"] == "call"]
    if calls and len(calls) == len(tests) and all(None in test.expected for test in calls):
        raise TestsError("tests that all expect None, which a function without a body returns")
    return tests


def _all(row: Mapping[str, Any]) -> Iterator[Test]:
    function = _function_of(row)
    if _given(row.get("tests")):
        return _entries(row["tests"], function, row.get("entry_point"))
    if _given(row.get("test")):
        return _entries(row["test"], function, row.get("entry_point"))
    if _given(row.get("test_list")):
        return _mbpp(row)
    if _given(row.get("input_output")):
        suite = _loaded(row["input_output"], "input_output")
        return _suite(
            {"fn_name": function, **suite} if isinstance(suite, Mapping) else {}, "input_output"
        )
    if _given(row.get("inputs")):
        return _suite({**row, "fn_name": function}, "inputs")
    return _contests(row, function)


def _given(value: Any) -> bool:
    return value is not None and not (
        isinstance(value, (str, Sequence, Mapping)) and not len(value)
    )


def _loaded(value: Any, name: str) -> Any:
    """JSON text as what it says; other values as they are."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise TestsError(f"{name} is neither JSON nor values ({error})") from error


def _function_of(row: Mapping[str, Any]) -> str | None:
    """The function that a row's inputs and outputs are about; None for programs."""
    metadata = row.get("metadata")
    if isinstance(metadata, str) and metadata.startswith("{"):
        metadata = _loaded(metadata, "metadata")
    named = metadata.get("func_name") if isinstance(metadata, Mapping) else None
    return row.get("fn_name") or row.get("func_name") or named or None


def _entries(given: Any, function: str | None, entry_point: str | None) -> Iterator[Test]:
    """The tests of the column ``tests``, or of part of it."""
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            yield Test(read_text(given, entry_point))
            return
        if not isinstance(given, (list, dict)):
            raise TestsError(f"a test is {FORMS}, not {given!r}")
    if isinstance(given, Mapping):
        yield from _mapping(given, function, entry_point)
    elif isinstance(given, Sequence):
        for test in given:
            if isinstance(test, str):
                yield Test(read_text(test, entry_point))
            elif isinstance(test, Mapping):
                yield from _mapping(test, function, entry_point)
            else:
                raise TestsError(f"a test is {FORMS}, not {test!r}")
    elif given is not None:
        raise TestsError(f"a test is {FORMS}, not {given!r}")


def _mapping(given: Mapping[str, Any], function: str | None, entry: str | None) -> Iterator[Test]:
    function = _function_of(given) or function
    entry = given.get("entry_point") or entry
    if _given(given.get("test")):
        yield from _entries(given["test"], function, entry)
    elif {"inputs", "outputs"} <= given.keys():
        yield from _suite({**given, "fn_name": function}, "tests")
    elif {"input", "output"} <= given.keys():
        into, out = given["input"], given["output"]
        if given.get("testtype") == "stdin" or given.get("type") in ("stdin", "stdin_stdout"):
            function = None
        # A column of mappings comes back as a mapping of columns.
        lists = isinstance(into, list) and isinstance(out, list) and len(into) == len(out) > 1
        if lists and function is None and given.get("testtype") is None:
            yield from _suite({"inputs": into, "outputs": out}, "tests")
            return
        yield _one(into, out, function)
    elif any(name in given for name in BRINGS_TESTS):
        yield from _all({"entry_point": entry, **given})
    else:
        raise TestsError(f"a test is {FORMS}, not {dict(given)!r:.200}")


def _mbpp(row: Mapping[str, Any]) -> Iterator[Test]:
    imports = row.get("test_imports") or []
    setup = "\n".join(
        [*([imports] if isinstance(imports, str) else imports), row.get("test_setup_code") or ""]
    )
    for name in ("test_list", "challenge_test_list"):
        given = row.get(name) or []
        for source in (
            _loaded(given, name) if isinstance(given, str) and given[:1] == "[" else given
        ):
            if not isinstance(source, str):
                raise TestsError(f"{name} holds {source!r}, which is no text")
            yield Test(read_text(source, row.get("entry_point"), setup.strip()))


def _suite(given: Mapping[str, Any], name: str) -> Iterator[Test]:
    """Inputs and outputs side by side."""
    inputs, outputs = _loaded(given.get("inputs"), name), _loaded(given.get("outputs"), name)
    if not isinstance(inputs, Sequence) or not isinstance(outputs, Sequence):
        raise TestsError(f"{name} has not both lists, 'inputs' and 'outputs'")
    if len(inputs) != len(outputs):
        raise TestsError(f"{name} has {len(inputs)} inputs and {len(outputs)} outputs")
    for into, out in zip(inputs, outputs, strict=True):
        yield _one(into, out, given.get("fn_name"))


def _contests(row: Mapping[str, Any], function: str | None) -> Iterator[Test]:
    for name in CONTESTS:
        given = _loaded(row.get(name), name)
        if _given(given):
            yield from _suite({"inputs": given.get("input"), "outputs": given.get("output")}, name)
    for name in LIVECODEBENCH[:2]:
        given = row.get(name)
        if _given(given):
            if isinstance(given, str) and not given.lstrip().startswith("["):
                given = _unpacked(given)
            yield from _entries(given, function, None)


def _one(into: Any, out: Any, function: str | None) -> Test:
    """One input and output: of a program, or of a function."""
    if function is None:
        job = {"kind": "program", "input": _text(into, "input")}
        return Test(job, wire.plain(_text(out, "output").encode(errors="surrogatepass")))
    call = {"kind": "call", "function": function}
    if isinstance(into, str):  # LiveCodeBench: each line is an argument
        lines = [line for line in into.split("\n") if line.strip()]
        arguments = [_loaded(line, "input") for line in lines]
        return Test({**call, "arguments": arguments}, [_loaded(out, "output")])
    if not isinstance(into, Sequence):
        raise TestsError(f"the input of function {function!r} is a list of arguments, not {into!r}")
    # APPS writes a result alone or in a list of one.
    results = [out, out[0]] if isinstance(out, list) and len(out) == 1 else [out]
    return Test({**call, "arguments": list(into)}, results)


def _text(value: Any, name: str) -> str:
    """What a program reads or writes: text, a number, or a list of lines."""
    if isinstance(value, str):
        return value.replace("\r\n", "\n").replace("\r", "\n")
    if isinstance(value, (int, float)):  # True and False too, as print writes them
        return str(value)
    if isinstance(value, Sequence) and all(isinstance(line, (str, int, float)) for line in value):
        return "".join(_text(line, name).removesuffix("\n") + "\n" for line in value)
    raise TestsError(f"the {name} of a program is text or a list of lines, not {value!r:.200}")


class _NoObjects(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise TestsError(f"private_test_cases holds an object ({module}.{name}), not text")


def _unpacked(given: str) -> Any:
    """LiveCodeBench's private tests: JSON, pickled as a text, compressed, in base 64."""
    try:
        return json.loads(_NoObjects(io.BytesIO(zlib.decompress(base64.b64decode(given)))).load())
    except TestsError:
        raise
    except Exception as error:  # any bytes can be in there
        raise TestsError(f"private_test_cases cannot be read: {error}") from error
