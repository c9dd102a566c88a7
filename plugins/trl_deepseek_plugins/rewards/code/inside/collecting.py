"""Running the tests that a text defines and does not call: functions, classes, unittest's."""

from __future__ import annotations

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
    for name in collect:
        item = module.__dict__[name]
        if isinstance(item, type) and issubclass(item, unittest.TestCase):
            result = unittest.TestResult()
            unittest.defaultTestLoader.loadTestsFromTestCase(item).run(result)
            if not result.wasSuccessful() or result.unexpectedSuccesses:
                return False
            ran += result.testsRun - len(result.skipped)
        elif isinstance(item, type):
            for attribute in [name for name in dir(item) if name.startswith("test")]:
                holder = item()
                ran += _run_function(getattr(holder, attribute), fixtures, holder)
        else:
            ran += _run_function(item, fixtures, None)
    return ran > 0 or not collect


def _run_function(function: Any, fixtures: dict[str, Any], holder: Any) -> int:
    """Run one test function for all its parameters; how many ran that were not skipped."""
    ran = 0
    fixtures = {**fixtures, **small_pytest.fixtures_of(vars(type(holder)), holder)}
    for given in small_pytest.parameters_of(function):
        try:
            with small_pytest.Fixtures(fixtures) as used:
                for name in ("setup_method", "setup"):
                    if hasattr(holder, name):
                        setup = getattr(holder, name)
                        setup(*([function] if inspect.signature(setup).parameters else []))
                for name, fixture in fixtures.items():
                    if fixture.automatic:
                        used.value(name)
                wanted = [n for n in inspect.signature(function).parameters if n not in given]
                function(**given, **{name: used.value(name) for name in wanted})
        except (small_pytest.Skipped, unittest.SkipTest):
            continue
        ran += 1
    return ran
