"""Running the tests that a text defines and does not call: functions, classes, unittest's."""

from __future__ import annotations

import asyncio
import inspect
import types
import unittest
from typing import Any

from trl_deepseek_plugins.rewards.code.inside import small_pytest


def run(module: types.ModuleType, collect: list[str]) -> bool:
    """Run the functions and classes of ``module`` that are named in ``collect``.

    Returns:
        Whether all of them passed.
    """
    fixtures = small_pytest.fixtures_of(module.__dict__)
    ran = 0
    _call(module.__dict__.get("setup_module"), module)
    for name in collect:
        item = module.__dict__[name]
        if isinstance(item, type) and issubclass(item, unittest.TestCase):
            result = unittest.TestResult()
            unittest.defaultTestLoader.loadTestsFromTestCase(item).run(result)
            if not result.wasSuccessful() or result.unexpectedSuccesses:
                return False
            ran += result.testsRun - len(result.skipped)
        elif isinstance(item, type):
            _call(getattr(item, "setup_class", None))
            for attribute in [name for name in dir(item) if name.startswith("test")]:
                holder = item()
                ran += _run_function(getattr(holder, attribute), fixtures, holder)
        else:
            ran += _run_function(item, fixtures, None)
    return ran > 0 or not collect


def _run_function(function: Any, fixtures: dict[str, Any], holder: Any) -> int:
    """Run one test function for all its parameters; how many ran that were not skipped."""
    ran = 0
    own = small_pytest.fixtures_of(vars(type(holder)), holder)
    fixtures = {**small_pytest.BUILT_IN, **fixtures, **own}
    for given in small_pytest.parameters_of(function):
        try:
            with small_pytest.Fixtures(fixtures) as used:
                for name in ("setup_method", "setup"):
                    _call(getattr(holder, name, None), function)
                for name, fixture in fixtures.items():
                    if fixture.automatic:
                        used.value(name)
                wanted = [n for n in inspect.signature(function).parameters if n not in given]
                wanted = wanted[_patched(function) :]
                done = function(**given, **{name: used.value(name) for name in wanted})
                if inspect.iscoroutine(done):
                    asyncio.run(done)
        except (small_pytest.Skipped, unittest.SkipTest):
            continue
        ran += 1
    return ran


def _call(setup: Any, *args: Any) -> None:
    """Call what prepares tests, if it is there, with as much as it takes."""
    if setup is not None:
        setup(*args[: len(inspect.signature(setup).parameters)])


def _patched(function: Any) -> int:
    """How many arguments, the first, ``unittest.mock.patch`` gives."""
    patches = getattr(function, "patchings", ())
    return sum(type(patch.new).__name__ == "_SentinelObject" for patch in patches)
