"""The process of the tests: stand-ins for the program's objects, and running a test's text.

A stand-in hands nothing of the tests to an object of the program but the arguments of calls that
the tests make by name: comparing, adding to or looking into what a *function* returned happens
here, on plain values. Objects of a class that the tests name themselves are spoken to freely.
"""

from __future__ import annotations

import builtins
import os
import socket
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from trl_deepseek_plugins.rewards.code.inside import patching, sharing, wire
from trl_deepseek_plugins.rewards.code.inside.program import BINARY, COMPARED


def call(connection: socket.socket, test: dict[str, Any]) -> Any:
    """A list of what a function of the program returns, as JSON."""
    function = Remote(connection).find(test["function"], in_solution=True)
    return [wire.encode(function(*test["arguments"]), lambda value: ["other"])]


def run_text(connection: socket.socket, test: dict[str, Any]) -> bool:
    """Run a test's text; True where all of it ran through."""
    source = test["setup"] + test["source"]
    remote = Remote(connection, test["names"], sharing.wanted(source))
    _offer_frameworks(source)
    sys.meta_path.append(patching.ProgramFinder(remote, test["modules"]))
    patching.mirror(remote, test["patched"])
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    for name in test["names"]:
        # What the program lacks is a NameError when used; Python's own must not take its place.
        found = remote.find(name, missing_ok=not hasattr(builtins, name))
        if found is not None:
            module.__dict__[name] = found
    for source in (test["setup"], test["source"]):
        exec(compile(source, "tests.py", "exec", dont_inherit=True), module.__dict__)
    if test["call"] is not None:
        module.__dict__["check"](eval(test["call"], module.__dict__))
    if not test["collect"]:
        return True
    from trl_deepseek_plugins.rewards.code.inside import collecting  # slow to load

    return collecting.run(module, test["collect"])


def _offer_frameworks(source: str) -> None:
    if "pytest" in source:
        from trl_deepseek_plugins.rewards.code.inside import small_pytest

        sys.modules["pytest"] = small_pytest.module()
    if "unittest" in source:
        import unittest

        unittest.main = lambda *_, **__: None  # type: ignore[assignment]  # they run anyway


class Remote:
    """Asks the program's process.

    Args:
        connection: To it.
        named: Names that the tests use of the program.
        shared: What else they have to do with, see :func:`.sharing.wanted`.
    """

    def __init__(
        self, connection: socket.socket, named: Sequence[str] = (), shared: Sequence[str] = ()
    ) -> None:
        self.connection = connection
        self.named: set[str] = set()
        self.solves = False
        for name in named:
            self.name(name)
        self.shared = shared
        self.told: Any = None  # environment and folder, as the program has them
        self.callbacks: list[Any] = sharing.reads() if "input" in shared else []
        self.exceptions: dict[int, type[BaseException]] = {}

    def name(self, name: str) -> None:
        """The tests use a global of the program: one with a capital is a class of theirs."""
        # A function's own name is none: a class in its place would be given what tests expect. Of
        # ``Solution`` the methods are called, and what they return is not trusted.
        if name == "Solution":
            self.solves = True
        elif name[:1].isupper():
            self.named.add(name)

    def find(self, name: str, in_solution: bool = False, missing_ok: bool = False) -> Any:
        """The program's global of that name.

        Raises:
            NameError: It has none.
        """
        (found, value), _ = self._exchange(["do", "name", None, [name, in_solution], {}])
        if found:
            self.name(name)
            return wire.decode(value, lambda data: self.resolve(data, True))
        if missing_ok:
            return None
        raise NameError(f"name {name!r} is not defined")

    def module(self, name: str) -> Any:
        """A module as the program's process has it; ``program`` is the program."""
        value, _ = self._exchange(["do", "module", None, [name], {}])
        return self.resolve(value, True)

    def ask(self, operation: str, target: int, /, *args: Any, **kwargs: Any) -> Any:
        """Do something with an object of the program's; arguments change as they would here."""
        known, calls = False, True
        if operation == "getattr":
            known, calls = kwargs.pop("known", False), kwargs.pop("calls", False)
        given = [wire.encode(value, self.refer) for value in args]
        named = {key: wire.encode(value, self.refer) for key, value in kwargs.items()}
        result, changed = self._exchange(["do", operation, target, given, named])
        for position, value in changed:
            _replace(args[position], wire.decode(value, lambda data: self.resolve(data, False)))
        return wire.decode(result, lambda data: self.resolve(data, known, calls))

    def _exchange(self, message: list[Any]) -> list[Any]:
        if self.shared:
            self._share()
        return self._send(message)

    def _share(self) -> None:
        here = [dict(os.environ), os.getcwd()] if "environment" in self.shared else [{}, ""]
        if here != self.told:
            self.told = here
            self._send(["do", "share", None, [self.shared, *here], {}])

    def _send(self, message: list[Any]) -> list[Any]:
        try:
            wire.send(self.connection, message)
            while True:
                answer = wire.receive(self.connection)
                if answer[0] == "said":
                    stream = sys.stderr if answer[1] == "stderr" else sys.stdout
                    stream.write(answer[2])
                    continue
                if answer[0] == "value":
                    return answer[1:]
                if answer[0] == "raised":
                    kind = self.resolve(answer[1], False)
                    raise kind.__new__(kind, answer[2])
                wire.send(self.connection, self.call_back(*answer[1:]))
        except (EOFError, ConnectionError):
            os._exit(1)  # the program ended early; no handler in the tests may catch that

    def call_back(self, number: int, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        """Call a function that the tests gave to the program."""
        try:
            given = [wire.decode(value, lambda data: self.resolve(data, False)) for value in args]
            named = {
                key: wire.decode(value, lambda data: self.resolve(data, False))
                for key, value in kwargs.items()
            }
            return ["value", wire.encode(self.callbacks[number](*given, **named), self.refer)]
        except Exception as error:
            kind = type(error)
            known = vars(builtins).get(kind.__name__) is kind or hasattr(kind, "_number")
            return ["raised", self.refer(kind if known else RuntimeError), str(error)]

    def refer(self, value: Any) -> list[Any]:
        """How the program is told of something that is not plain.

        Raises:
            TypeError: The program cannot be given that.
        """
        number = getattr(value, "_number", None)
        if isinstance(number, int):
            return ["ref", number]
        name = getattr(value, "__name__", "")
        if value is vars(builtins).get(name):
            return ["builtin", name]
        if isinstance(value, Iterator) and not callable(value):
            return ["iterator", *(wire.encode(item, self.refer) for item in value)]
        if callable(value):
            self.callbacks.append(value)
            return ["back", len(self.callbacks) - 1]
        if type(value).__module__ == "tests" and hasattr(value, "__dict__"):
            return ["graph", self._table(value)]
        raise TypeError(f"the program cannot be given a {type(value).__name__} of the tests")

    def _table(self, value: Any) -> list[Any]:
        """Class and attributes of an object of the tests, and of all such that it leads to."""
        objects, numbers = [value], {id(value): 0}

        def refer(inner: Any) -> list[Any]:
            if type(inner).__module__ != "tests" or isinstance(inner, (type, types.FunctionType)):
                return self.refer(inner)
            if id(inner) not in numbers:
                numbers[id(inner)] = len(objects)
                objects.append(inner)
            return ["node", numbers[id(inner)]]

        return [
            [type(one).__name__, [[k, wire.encode(v, refer)] for k, v in vars(one).items()]]
            for one in objects  # it grows
        ]

    def resolve(self, data: list[Any], known: bool, calls: bool = True) -> Any:
        """What stands here for an object of the program's; for the rest see :class:`StandIn`."""
        if data[0] == "builtin":
            return getattr(builtins, data[1])
        if data[0] == "back":
            return self.callbacks[data[1]]
        if data[0] == "like":
            plain = wire.decode(data[1], lambda inner: self.resolve(inner, False))
            return _like(self, plain, data[2][1])
        _, number, kind, name, bases = data
        if kind == "exception":
            if number not in self.exceptions:
                base = next(self.resolve(base, False) for base in bases)
                self.exceptions[number] = type(name, (base,), {"_number": number})
            return self.exceptions[number]
        known = known or name in self.named
        calls = calls and kind in ("function", "class")
        methods = self.solves and (kind, name) == ("object", "Solution")
        stand_in = StandIn(self, number, known, calls, methods)
        return _later(stand_in) if kind == "coroutine" else stand_in


class StandIn:
    """Stands for an object of the program's.

    Args:
        remote: Where it is.
        number: Which it is.
        known: Whether what the tests hold may be handed to it.
        calls: Whether it may be called with arguments although it is not known.
        methods: Whether its methods may.
    """

    def __init__(
        self, remote: Remote, number: int, known: bool, calls: bool, methods: bool
    ) -> None:
        self.__dict__.update(_remote=remote, _number=number, _known=known)
        self.__dict__.update(_calls=calls, _methods=methods)

    def _hand(self, operation: str, /, *args: Any, **kwargs: Any) -> Any:
        if not self._known and not (operation == "call" and (self._calls or not (args or kwargs))):
            raise TypeError("an object that the program returned is not given what tests hold")
        return self._remote.ask(operation, self._number, *args, **kwargs)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the object."""
        return self._hand("call", *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        allowed = {"known": self._known, "calls": self._known or self._methods}
        return self._remote.ask("getattr", self._number, name, **allowed)

    def __setattr__(self, name: str, value: Any) -> None:
        self._hand("setattr", name, value)

    def __delattr__(self, name: str) -> None:
        self._hand("delattr", name)

    def __eq__(self, other: object) -> bool:
        """Identity; the program's own ``__eq__`` only between two objects of known classes."""
        if not isinstance(other, StandIn):
            return False
        if self._number == other._number:
            return True
        if not (self._known and other._known):
            return False
        # An object that equals whatever there is says nothing.
        anything = bool(self._remote.ask("eq", self._number, 0.5))
        return not anything and bool(self._remote.ask("eq", self._number, other))

    def __hash__(self) -> int:
        return self._remote.ask("hash", self._number) if self._known else hash(self._number)

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, _HasNumber) and bool(self._hand("isinstance", value))

    def __subclasscheck__(self, value: type) -> bool:
        return hasattr(value, "_number") and bool(self._hand("issubclass", value))

    def __exit__(self, *_: object) -> bool:
        return bool(self._remote.ask("exit", self._number))


class _Numbered(type):
    def __instancecheck__(cls, value: object) -> bool:
        return isinstance(getattr(value, "_number", None), int)


class _HasNumber(metaclass=_Numbered):
    """Everything that stands for an object of the program's."""


def _special(operation: str, hands: bool) -> Callable[..., Any]:
    def method(self: StandIn, *args: Any) -> Any:
        if hands:
            return self._hand(operation, *args)
        return self._remote.ask(operation, self._number)

    return method


for _name in ("str", "repr", "len", "bool", "int", "float", "index", "iter", "next", "neg", "abs"):
    setattr(StandIn, f"__{_name}__", _special(_name, hands=False))
StandIn.__enter__ = _special("enter", hands=False)  # type: ignore[attr-defined]
for _name in (*BINARY, *(f"r{name}" for name in BINARY), *COMPARED[:-1]):
    setattr(StandIn, f"__{_name.rstrip('_')}__", _special(_name, hands=True))
for _name in ("getitem", "setitem", "delitem", "contains"):
    setattr(StandIn, f"__{_name}__", _special(_name, hands=True))


def _like(remote: Remote, plain: Any, number: int) -> Any:
    """A plain value that also has the attributes of the program's object."""

    def attribute(self: Any, name: str) -> Any:
        return remote.ask("getattr", number, name)

    kind = type(plain)
    if kind is bool:
        return plain
    return type(kind.__name__, (kind,), {"__getattr__": attribute, "_number": number})(plain)


async def _later(stand_in: StandIn) -> Any:
    return stand_in._remote.ask("await", stand_in._number)


def _replace(mine: Any, new: Any) -> None:
    """Give a list, dict, set, deque or bytearray of the tests the content it has there."""
    if isinstance(mine, (list, bytearray)):
        mine[:] = new
    elif isinstance(mine, (dict, set)):
        mine.clear()
        mine.update(new)
    elif hasattr(mine, "extend"):
        mine.clear()
        mine.extend(new)
