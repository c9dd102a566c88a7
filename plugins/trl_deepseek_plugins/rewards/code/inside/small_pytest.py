"""The part of pytest that tests of one function use; pytest itself is not in the sandbox."""

from __future__ import annotations

import inspect
import itertools
import math
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

NAMES = ("raises", "approx", "fixture", "mark", "param", "skip", "fail", "main")


class Skipped(Exception):
    """The test wants not to be run."""


def module() -> types.ModuleType:
    """A module ``pytest``."""
    found = types.ModuleType("pytest")
    for name in NAMES:
        setattr(found, name, globals()[name])
    return found


class Raised:
    """What ``raises`` hands out."""

    value: BaseException
    type: type[BaseException]

    def match(self, pattern: str) -> bool:
        """Check that the message matches."""
        if not re.search(pattern, str(self.value)):
            raise AssertionError(f"{str(self.value)!r} does not match {pattern!r}")
        return True


class _Raises:
    def __init__(self, expected: Any, match: str | None = None) -> None:
        self.expected = expected
        self.match = match
        self.info = Raised()

    def __enter__(self) -> Raised:
        return self.info

    def __exit__(self, kind: Any, error: BaseException | None, _: object) -> bool:
        if error is None:
            raise AssertionError(f"did not raise {self.expected}")
        if not isinstance(error, self.expected):
            return False
        self.info.value, self.info.type = error, kind
        if self.match is not None:
            self.info.match(self.match)
        return True


def raises(expected: Any, *call: Any, match: str | None = None, **kwargs: Any) -> _Raises | Raised:
    """Check that the body, or a call, raises ``expected``."""
    context = _Raises(expected, match)
    if not call:
        return context
    with context as info:
        call[0](*call[1:], **kwargs)
    return info


class approx:
    """A number, or numbers, compared with a tolerance: 1e-6 of it, or 1e-12."""

    def __init__(self, expected: Any, rel: Any = None, abs: Any = None, nan_ok: bool = False):
        self.expected, self.rel, self.abs, self.nan_ok = expected, rel, abs, nan_ok

    def _equal(self, actual: Any, expected: Any) -> bool:
        if isinstance(expected, Mapping):
            return (
                isinstance(actual, Mapping)
                and actual.keys() == expected.keys()
                and all(self._equal(actual[key], expected[key]) for key in expected)
            )
        if isinstance(expected, (list, tuple)):
            return (
                isinstance(actual, (list, tuple))
                and len(actual) == len(expected)
                and all(map(self._equal, actual, expected))
            )
        if actual == expected:
            return True
        if type(actual) is bool or not isinstance(actual, (int, float, complex)):
            return False
        if math.isnan(abs(expected)) or math.isnan(abs(actual)):
            return self.nan_ok and expected != expected and actual != actual
        if math.isinf(abs(expected)) or math.isinf(abs(actual)):
            return False
        absolute = 1e-12 if self.abs is None else self.abs
        relative = (0.0 if self.abs is not None else 1e-6) if self.rel is None else self.rel
        return abs(actual - expected) <= max(absolute, relative * abs(expected))

    def __eq__(self, actual: object) -> bool:
        return self._equal(actual, self.expected)

    __hash__ = None  # type: ignore[assignment]


@dataclass
class _Fixture:
    function: Callable[..., Any]
    automatic: bool
    name: str


def fixture(function: Any = None, *, autouse: bool = False, name: str = "", **_: Any) -> Any:
    """Mark a function as what makes an argument."""
    if function is None:
        return lambda function: fixture(function, autouse=autouse, name=name)
    return _Fixture(function, autouse, name or function.__name__)


def _built_in() -> dict[str, _Fixture]:
    """The fixtures that pytest brings; ``own_fixtures`` makes them."""
    names = ("tmp_path", "capsys", "monkeypatch")

    def made(name: str) -> Callable[[], Any]:
        def make() -> Any:
            from trl_deepseek_plugins.rewards.code.inside import own_fixtures  # slow to load

            return getattr(own_fixtures, name)()

        return make

    return {name: _Fixture(made(name), False, name) for name in names}


BUILT_IN = _built_in()


def fixtures_of(namespace: Mapping[str, Any], holder: Any = None) -> dict[str, _Fixture]:
    """The fixtures that a module or class defines."""
    found = [value for value in namespace.values() if isinstance(value, _Fixture)]
    bound = [
        f if holder is None else _Fixture(f.function.__get__(holder), f.automatic, f.name)
        for f in found
    ]
    return {fixture.name: fixture for fixture in bound}


class Fixtures:
    """The values of fixtures for one test; what follows their ``yield`` runs at the end."""

    def __init__(self, known: dict[str, _Fixture]) -> None:
        self.known = known
        self.values: dict[str, Any] = {}
        self.open: list[Any] = []

    def value(self, name: str) -> Any:
        """Make one, once."""
        if name not in self.values:
            function = self.known[name].function
            made = function(
                *(self.value(other) for other in inspect.signature(function).parameters)
            )
            if inspect.isgenerator(made):
                self.open.append(made)
                made = next(made)
            self.values[name] = made
        return self.values[name]

    def __enter__(self) -> Fixtures:
        return self

    def __exit__(self, *_: object) -> None:
        for made in reversed(self.open):
            next(made, None)


class param:
    """One set of arguments."""

    def __init__(self, *values: Any, **_: Any) -> None:
        self.values = values


class _Mark:
    """``pytest.mark``: parametrize, skip; any other mark changes nothing."""

    def __getattr__(self, name: str) -> Any:
        def mark(*args: Any, **_: Any) -> Any:
            if len(args) == 1 and (inspect.isroutine(args[0]) or isinstance(args[0], type)):
                return args[0]
            return lambda function: function

        return mark

    def parametrize(self, names: Any, values: Any, **_: Any) -> Any:
        """Run the test once per set of arguments."""
        split = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
        sets = []
        for value in values:
            one = value.values if isinstance(value, param) else value
            alone = len(split) == 1 and not isinstance(value, param)
            sets.append(dict(zip(split, (one,) if alone else one, strict=True)))

        def mark(function: Any) -> Any:
            function.parameter_sets = [*getattr(function, "parameter_sets", []), sets]
            return function

        return mark

    def skip(self, *_: Any, **__: Any) -> Any:
        """Do not run the test."""

        def mark(function: Any) -> Any:
            def skipped() -> None:
                raise Skipped

            return skipped

        return mark


mark = _Mark()


def parameters_of(function: Any) -> list[dict[str, Any]]:
    """The arguments of each run of a test function."""
    sets = getattr(function, "parameter_sets", [])
    return [
        {name: value for part in parts for name, value in part.items()}
        for parts in itertools.product(*sets)
    ]


def skip(*_: Any, **__: Any) -> None:
    """End a test that wants not to be run."""
    raise Skipped


def fail(reason: str = "", **_: Any) -> None:
    """Fail a test."""
    raise AssertionError(reason)


def main(*_: Any, **__: Any) -> int:
    """Nothing: the tests are run anyway."""
    return 0
