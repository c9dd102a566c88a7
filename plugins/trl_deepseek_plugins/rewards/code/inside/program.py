"""The process of the program under test: run it as a program, or load it and answer calls.

Nothing of the tests is here but what they hand to the program: its input, or the arguments of its
calls. Whatever the program does to this process, all it can say is a value.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import importlib
import operator
import os
import socket
import sys
import threading
import types
from collections.abc import Callable
from functools import partial
from typing import Any

from trl_deepseek_plugins.rewards.code.inside import sharing, wire

BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor")


def _reflected(operation: Callable[..., Any], target: Any, value: Any) -> Any:
    return operation(value, target)


COMPARED = ("lt", "le", "gt", "ge", "eq")
OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in (*BINARY, *COMPARED)},
    **{f"r{name}": partial(_reflected, getattr(operator, name)) for name in BINARY},
    **{name: getattr(operator, name) for name in ("getitem", "setitem", "delitem", "contains")},
    **{name: getattr(operator, name) for name in ("neg", "abs", "index")},
    **{name: getattr(builtins, name) for name in ("getattr", "setattr", "delattr", "hash")},
    **{name: getattr(builtins, name) for name in ("str", "repr", "len", "bool", "int", "float")},
    # Not named: the program's own parameter may be called ``target``.
    "call": lambda target, /, *args, **kwargs: target(*args, **kwargs),
    "iter": iter,
    "next": next,
    "isinstance": lambda target, value: isinstance(value, target),
    "issubclass": lambda target, value: issubclass(value, target),
    "enter": lambda target: target.__enter__(),
    "exit": lambda target: target.__exit__(None, None, None),
    "await": lambda target: _finish(target),
}
MISSING = object()


def run(compiled: list[types.CodeType], reading: int, writing: int) -> None:
    """Become a program that reads and writes; does not return."""
    _take_streams(reading, writing)
    status = 1
    try:
        try:
            exec(compiled[-1], _module("__main__").__dict__)
        except SystemExit as end:
            if end.code not in (None, 0):
                raise
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()  # as Python does before it ends
        atexit._run_exitfuncs()  # likewise: fast output is often written there
        for stream in (sys.stdout, sys.__stdout__):
            if stream is not None:
                stream.flush()
        status = 0
    finally:
        os._exit(status)  # with the exception, if any: nobody reads a traceback


def serve(compiled: list[types.CodeType], channel: int) -> None:
    """Load the program as a module and answer calls until nobody asks; does not return.

    Args:
        compiled: What its prompt has defined for it, and the program.
        channel: To the tests.
    """
    channel = os.dup2(channel, 255)
    nowhere = os.open(os.devnull, os.O_RDWR)
    _take_streams(nowhere, nowhere, keep=channel)
    try:
        module = _module("program")
        for part in compiled:
            exec(part, module.__dict__)
        Server(socket.socket(fileno=channel), module.__dict__).answer()
    finally:
        os._exit(1)


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module


def _take_streams(reading: int, writing: int, keep: int = 256) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number, descriptor in enumerate((reading, writing, nowhere)):
        os.dup2(descriptor, number)
    os.closerange(3, keep)


class Server:
    """Does what the tests ask of the program's objects."""

    def __init__(self, connection: socket.socket, namespace: dict[str, Any]) -> None:
        self.connection = connection
        self.namespace = namespace
        self.objects: list[Any] = []
        self.numbers: dict[int, int] = {}
        self.said: list[list[str]] = []  # stream and text, of what the tests are still to be told

    def answer(self) -> Any:
        """Answer requests; return the value that a call back into the tests gives."""
        while True:
            message = wire.receive(self.connection)
            if message[0] == "value":
                return wire.decode(message[1], self.resolve)
            if message[0] == "raised":
                raise self.resolve(message[1])(message[2])
            try:
                reply = ["value", *self.do(*message[1:])]
            except BaseException as error:
                reply = ["raised", self.refer(type(error)), _said(error)]
            self.send(reply)

    def send(self, message: list[Any]) -> None:
        """Send one message, and before it what the program has printed."""
        said, self.said = self.said, []
        for stream, text in said:
            wire.send(self.connection, ["said", stream, text])
        wire.send(self.connection, message)

    def do(self, name: str, target: Any, args: list[Any], kwargs: dict[str, Any]) -> list[Any]:
        """The encoded result, and the encoded arguments where the call has changed them."""
        if name == "name":
            found = self.find(*args)
            return [[found is not MISSING, wire.encode(found, self.refer)], []]
        if name == "module":
            return [self.refer(importlib.import_module(*args)), []]
        if name == "share":
            sharing.share(self, *args)
            return [None, []]
        given = [wire.decode(value, self.resolve) for value in args]
        named = {key: wire.decode(value, self.resolve) for key, value in kwargs.items()}
        result = OPERATIONS[name](self.objects[target], *given, **named)
        encoded = wire.encode(result, self.refer)
        after = [wire.encode(value, self.refer) for value in given] if name == "call" else args
        changed = [[i, new] for i, (old, new) in enumerate(zip(args, after, strict=True))]
        return [encoded, [pair for pair in changed if pair[1] != args[pair[0]]]]

    def find(self, name: str, in_solution: bool) -> Any:
        """A global name, or a method of a class ``Solution``."""
        if name in self.namespace:
            return self.namespace[name]
        if in_solution and "Solution" in self.namespace:
            return getattr(self.namespace["Solution"](), name, MISSING)
        return MISSING

    def refer(self, value: Any) -> list[Any]:
        """A reference to an object, with what the tests need to know to stand in for it."""
        if isinstance(value, Back):
            return ["back", value.number]
        if isinstance(value, type) and value.__module__ == "builtins":
            name = value.__name__
            if vars(builtins).get(name) is value:
                return ["builtin", name]
        number = self.numbers.get(id(value))
        if number is None:
            number = self.numbers[id(value)] = len(self.objects)
            self.objects.append(value)
        kind = "object"
        if isinstance(value, type):
            kind = "exception" if issubclass(value, BaseException) else "class"
            bases = [self.refer(base) for base in value.__mro__[1:]] if kind == "exception" else []
            return ["ref", number, kind, value.__name__, bases]
        if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, types.MethodType)):
            kind = "function"
        elif isinstance(value, types.CoroutineType):
            kind = "coroutine"
        return ["ref", number, kind, type(value).__name__, []]

    def resolve(self, data: list[Any]) -> Any:
        """What a reference in a request stands for."""
        if data[0] == "ref":
            return self.objects[data[1]]
        if data[0] == "builtin":
            return getattr(builtins, data[1])
        if data[0] == "graph":
            return self.build(data[1])
        return self.back(data[1])

    def back(self, number: int) -> Back:
        """A function of the tests'."""
        return Back(self, number)

    def build(self, table: list[list[Any]]) -> Any:
        """The first of some objects of classes that tests define and the program has, too."""
        made = [object.__new__(self.namespace[name]) for name, _ in table]

        def resolve(data: list[Any]) -> Any:
            return made[data[1]] if data[0] == "node" else self.resolve(data)

        for one, (_, attributes) in zip(made, table, strict=True):
            for name, value in attributes:
                object.__setattr__(one, name, wire.decode(value, resolve))
        return made[0]


class Back:
    """A function of the tests' that the program was given."""

    def __init__(self, server: Server, number: int) -> None:
        self.server = server
        self.number = number

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call it, and wait for what it returns."""
        refer = self.server.refer
        given = [wire.encode(value, refer) for value in args]
        named = {key: wire.encode(value, refer) for key, value in kwargs.items()}
        self.server.send(["back", self.number, given, named])
        return self.server.answer()


def _finish(coroutine: Any) -> Any:
    import asyncio  # takes long, and few need it

    return asyncio.run(coroutine)


def _said(error: BaseException) -> str:
    with contextlib.suppress(BaseException):
        return str(error)[:10_000]
    return ""
