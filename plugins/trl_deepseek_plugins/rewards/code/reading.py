"""A test's text, read without running it: what it uses of the program, and whether it tests it."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from trl_deepseek_plugins.rewards.code.inside import small_pytest

BUILTINS = frozenset(dir(builtins))
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_TESTING = {"unittest", "unittest.mock", "importlib"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef


class TestsError(ValueError):
    """Tests that cannot be read, or that test nothing."""

    __test__ = False  # pytest would collect it


def read_text(source: str, entry_point: str | None = None, setup: str = "") -> dict[str, Any]:
    """A text of tests as the harness runs it.

    What it defines and does not call is called: ``check(entry_point)``, functions ``test...``,
    classes ``Test...`` and unittest's.

    Args:
        source: Assert statements, HumanEval's ``check``, or tests for pytest or unittest.
        entry_point: The name, or expression, that ``check`` is called with.
        setup: Code that goes before it.

    Raises:
        TestsError: It does not parse, asserts nothing about the program, or needs what is missing.
    """
    body, before = _parse(source), _parse(setup)
    modules = list(_program_modules([*before.body, *body.body]))
    top, functions, classes = _sort(body)
    called = {node.func.id for node in _calls(top) if isinstance(node.func, ast.Name)}
    call = None
    if "check" in functions and "check" not in called:
        call = _entry_point(entry_point, functions["check"])
    tests = [name for name in functions if name.startswith("test") and name not in called]
    tests += [name for name, node in classes.items() if _is_test_class(node)]
    for name in tests:
        _check_fixtures(body, functions.get(name) or classes[name])
    wanted: set[str] = {
        node.id for node in ast.walk(_parse(call or "")) if isinstance(node, ast.Name)
    }
    bound = _bound(body) | _bound(before)
    used = _loaded([*before.body, *body.body])
    names = (used - bound - BUILTINS) | wanted
    if not names and not modules:
        names = _innermost(body)  # a program may have to be called ``sum``
    run = [
        *top,
        *_reached({*_loaded(top), *tests, *(["check"] if call else [])}, functions, classes),
    ]
    if not any(_asserts(node) for part in run for node in ast.walk(part)):
        unused = [name for name in functions if name not in _loaded(run)]
        hint = f": it defines {unused[0]!r} and never calls it" if unused else ""
        raise TestsError(f"a test that asserts nothing{hint}: {_short(source)}")
    if not names and not modules:
        raise TestsError(f"a test that uses nothing of the program: {_short(source)}")
    return {
        "kind": "text",
        "source": source,
        "setup": setup,
        "names": sorted(names),
        "modules": modules,
        "call": call,
        "collect": tests,
        "patched": _patched(source, [*before.body, *body.body]),
    }


def defined_in(text: str, names: Iterable[str]) -> str:
    """Those of ``names`` that a prompt defines whole, with what they use; often nothing."""
    known = _definitions(text)
    reached = {id(node) for node in _reached(set(names), *known[1:])}
    found = [node for part in known[1:] for node in part.values() if id(node) in reached]
    return "\n".join(map(ast.unparse, [*known[0], *found])) if found else ""


def brought_by(text: str, tested: Collection[str]) -> str:
    """What a prompt gives to the program: its imports, and what it defines whole and is not tested.

    A benchmark runs the prompt's code and then the answer's.
    """
    imports, functions, classes = _definitions(text)
    found = [n for part in (functions, classes) for name, n in part.items() if name not in tested]
    return "\n".join(map(ast.unparse, [*imports, *sorted(found, key=lambda node: node.lineno)]))


def _definitions(
    text: str,
) -> tuple[list[ast.stmt], dict[str, Function], dict[str, ast.ClassDef]]:
    """The imports, and the functions and classes of a text that have a body."""
    try:
        body = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [], {}, {}
    imports: list[ast.stmt] = [
        node for node in body.body if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    _, functions, classes = _sort(body)
    return (
        imports,
        {name: node for name, node in functions.items() if _says_something(node)},
        {name: node for name, node in classes.items() if any(map(_says_something, node.body))},
    )


def _says_something(node: ast.stmt) -> bool:
    if isinstance(node, FUNCTIONS):
        return any(not _says_nothing(part) for part in node.body)
    return not _says_nothing(node)


def _says_nothing(node: ast.stmt) -> bool:
    return isinstance(node, ast.Pass) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def _patched(source: str, body: list[ast.stmt]) -> list[str]:
    """Python's own modules that a test may set something in."""
    if "patch" not in source:
        return []
    imported = [alias.name for part in body for node in ast.walk(part)
                if isinstance(node, ast.Import) for alias in node.names]  # fmt: skip
    texts = [node.value for part in body for node in ast.walk(part)
             if isinstance(node, ast.Constant) and isinstance(node.value, str)]  # fmt: skip
    dotted = [text.rpartition(".")[0] for text in texts if _DOTTED.fullmatch(text)]
    own = [name for name in (*imported, *dotted) if name in sys.stdlib_module_names]
    return sorted({*own, *(["builtins"] if "input" in source else [])} - _TESTING)


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TestsError(f"a test that is no Python ({error}): {_short(source)}") from error


def _short(source: str) -> str:
    text = " ".join(source.split())
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _sort(
    body: ast.Module,
) -> tuple[list[ast.stmt], dict[str, Function], dict[str, ast.ClassDef]]:
    """What runs at once, the functions, and the classes at the top of a module."""
    top = [node for node in body.body if not isinstance(node, (*FUNCTIONS, ast.ClassDef))]
    functions = {node.name: node for node in body.body if isinstance(node, FUNCTIONS)}
    classes = {node.name: node for node in body.body if isinstance(node, ast.ClassDef)}
    # Under ``if __name__ == "__main__"`` nothing runs.
    return [node for node in top if not _is_main_guard(node)], functions, classes


def _is_main_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__name__" in _loaded([node.test])


def _calls(nodes: Iterable[ast.AST]) -> Iterator[ast.Call]:
    for part in nodes:
        for node in ast.walk(part):
            if isinstance(node, ast.Call):
                yield node


def _loaded(nodes: Iterable[ast.AST]) -> set[str]:
    return {
        node.id
        for part in nodes
        for node in ast.walk(part)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }


def _bound(body: ast.AST) -> set[str]:
    """Every name that is given a value somewhere."""
    found = set()
    for node in ast.walk(body):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
    return found | {"__name__", "__file__"}


def _reached(
    names: set[str], functions: dict[str, Function], classes: dict[str, ast.ClassDef]
) -> list[ast.AST]:
    """The functions and classes that ``names`` lead to."""
    known: dict[str, ast.AST] = {**functions, **classes}
    found: dict[str, ast.AST] = {}
    waiting = [name for name in names if name in known]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = known[name]
            waiting += [other for other in _loaded([known[name]]) if other in known]
    return list(found.values())


def _asserts(node: ast.AST) -> bool:
    if isinstance(node, ast.Assert):
        # ``assert True`` says nothing; ``assert False`` that no program may come there.
        if not _loaded([node.test]):
            return not getattr(node.test, "value", True)
        return not _is_always_true(node.test)
    if isinstance(node, ast.Call):
        function = node.func
        name = getattr(function, "attr", None) or getattr(function, "id", "")
        same = len(node.args) > 1 and ast.dump(node.args[0]) == ast.dump(node.args[1])
        return str(name).startswith(("assert", "raises")) and bool(
            (_loaded([*node.args]) and not same) or len(node.args) < 2
        )
    return isinstance(node, ast.Raise)


def _is_always_true(test: ast.expr) -> bool:
    """``f(1) == f(1)``, ``callable(f)`` and ``hasattr(solution, "f")`` say nothing of a value."""
    if isinstance(test, ast.Compare):
        both = ast.dump(test.left) == ast.dump(test.comparators[0])
        return both and isinstance(test.ops[0], (ast.Eq, ast.Is, ast.LtE, ast.GtE))
    function = test.func if isinstance(test, ast.Call) else None
    return isinstance(function, ast.Name) and function.id in ("callable", "hasattr")


def _entry_point(given: str | None, check: Function) -> str | None:
    """The expression that ``check`` is to be called with."""
    if not given:
        raise TestsError("a test that defines check() and never calls it, and no 'entry_point'")
    if len(check.args.args) != 1:
        raise TestsError("a test whose check() takes other than the function under test")
    try:
        ast.parse(given, mode="eval")
    except (SyntaxError, ValueError) as error:
        raise TestsError(f"entry_point {given!r} is no name") from error
    return given


def _is_test_class(node: ast.ClassDef) -> bool:
    unittest = any("TestCase" in ast.unparse(base) for base in node.bases)
    methods = [part.name for part in node.body if isinstance(part, FUNCTIONS)]
    return unittest or (
        node.name.startswith("Test") and any(name.startswith("test") for name in methods)
    )


def _check_fixtures(body: ast.Module, test: Function | ast.ClassDef) -> None:
    """Refuse what pytest would give or do and the sandbox does not."""
    functions = [node for node in ast.walk(body) if isinstance(node, FUNCTIONS)]
    fixtures = [n for n in functions if "fixture" in "".join(map(ast.unparse, n.decorator_list))]
    known = {node.name for node in fixtures} | {*small_pytest.BUILT_IN}
    for node in ast.walk(body):
        if not isinstance(node, ast.Attribute):
            continue
        if getattr(node.value, "id", "") == "pytest" and node.attr not in small_pytest.NAMES:
            raise TestsError(f"a test that uses pytest.{node.attr}, which is not in the sandbox")
        if node.attr in ("xfail", "mock_open"):
            raise TestsError(f"a test that uses {node.attr}, which is not in the sandbox")
    if isinstance(test, ast.ClassDef) and any("TestCase" in ast.unparse(b) for b in test.bases):
        return
    methods = [test] if isinstance(test, FUNCTIONS) else test.body
    tests = [n for n in methods if isinstance(n, FUNCTIONS) and n.name.startswith("test")]
    for function in [*tests, *fixtures]:
        if function in tests and any(
            isinstance(n, (ast.Yield, ast.YieldFrom)) for n in ast.walk(function)
        ):
            raise TestsError(f"a test that yields, {function.name!r}, which nothing runs")
        given = " ".join(map(ast.unparse, [*function.decorator_list, *test.decorator_list]))
        for argument in function.args.args:
            if argument.arg in known or argument.arg in given or argument.arg in ("self", "cls"):
                continue
            if "patch" not in given:  # which gives the first arguments itself
                raise TestsError(
                    f"a test that uses pytest's fixture {argument.arg!r}, which the sandbox lacks"
                )


def _program_modules(body: list[ast.stmt]) -> Iterator[str]:
    """Modules that a test imports and that nobody has: they stand for the program."""
    for part in body:
        for node in ast.walk(part):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "solution"]
            for name in names:
                top = name.partition(".")[0]
                if top in sys.stdlib_module_names or top == "pytest":
                    continue
                spec = importlib.util.find_spec(top)
                if spec is not None and "site-packages" in str(spec.origin):
                    raise TestsError(f"a test that imports {top!r}, which is not in the sandbox")
                yield name


def _innermost(body: ast.Module) -> set[str]:
    """Python's own functions that are called on values that no other call makes."""
    return {
        node.func.id
        for node in _calls([body])
        if isinstance(node.func, ast.Name)
        and node.func.id in BUILTINS
        and not list(_calls([*node.args, *node.keywords]))
    }
