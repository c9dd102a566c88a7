"""Plain values over a socket, between the process of the tests and the process of the program.

Each side reads JSON and builds only plain values from it: no object, and so no ``__eq__``, of one
process ever runs in the other. What is not plain is passed as a reference to call back with.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib
import json
import socket
import struct
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

Refer = Callable[[Any], list[Any]]
Resolve = Callable[[list[Any]], Any]

SEQUENCES: dict[type, str] = {
    list: "list",
    tuple: "tuple",
    set: "set",
    frozenset: "frozenset",
    deque: "deque",
}
MAPPINGS = (dict, OrderedDict, defaultdict, Counter)
# How to take the plain part out of an instance of a subclass without running its code.
BASES: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
    bytes: lambda value: bytes(memoryview(value)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    list: lambda value: list(list.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}
READERS: dict[str, Callable[..., Any]] = {
    "list": lambda *items: list(items),
    "tuple": lambda *items: items,
    "set": lambda *items: set(items),
    "frozenset": lambda *items: frozenset(items),
    "deque": lambda *items: deque(items),
    "dict": lambda *items: dict(zip(items[::2], items[1::2], strict=True)),
    "int": lambda text: int(text, 16),  # not in decimal: that takes quadratic time
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": complex,
    "range": range,
    "Decimal": Decimal,
    "Fraction": Fraction,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "datetime": datetime.datetime.fromisoformat,
    "timedelta": datetime.timedelta,
    "path": lambda text: importlib.import_module("pathlib").Path(text),  # slow to load
    "named": lambda name, fields, *values: namedtuple(name, fields)(*values),
    "iterator": lambda *items: iter(items),
}
# Bytes of whatever comes out: a program's output, a value, a message, all results of a completion.
OUTPUT = 64 << 20
LARGEST = 1 << 1024  # integers up to here are written as numbers


def encode(value: Any, refer: Refer) -> Any:
    """``value`` as JSON; ``refer`` stands in for what is not plain."""
    kind = type(value)
    if kind is int and not -LARGEST < value < LARGEST:
        return ["int", hex(value)]
    if value is None or kind in (bool, int, float, str):
        return value
    if kind in SEQUENCES:
        return [SEQUENCES[kind], *(encode(item, refer) for item in value)]
    if kind in MAPPINGS:
        return ["dict", *(encode(part, refer) for pair in value.items() for part in pair)]
    if kind in (bytes, bytearray):
        return [kind.__name__, value.hex()]
    if kind is complex:
        return ["complex", value.real, value.imag]
    if kind is range:
        return ["range", value.start, value.stop, value.step]
    if kind is Decimal:
        return ["Decimal", str(value)]
    if kind is Fraction:
        return ["Fraction", value.numerator, value.denominator]
    if kind in (datetime.date, datetime.time, datetime.datetime):
        return [kind.__name__, value.isoformat()]
    if kind is datetime.timedelta:
        return ["timedelta", value.days, value.seconds, value.microseconds]
    if kind.__name__ in ("PosixPath", "PurePosixPath") and kind.__module__.startswith("pathlib"):
        return ["path", str(value)]
    fields = getattr(kind, "_fields", None)
    if issubclass(kind, tuple) and isinstance(fields, tuple):
        return ["named", kind.__name__, ["list", *fields], *(encode(v, refer) for v in value)]
    for base, plain in BASES.items():
        if issubclass(kind, base):
            return ["like", encode(plain(value), refer), refer(value)]
    return refer(value)


def decode(data: Any, resolve: Resolve) -> Any:
    """The value that :func:`encode` was given; ``resolve`` reads references.

    Raises:
        ValueError: It is not what :func:`encode` writes.
    """
    if not isinstance(data, list):
        return data
    name = data[0] if data else None
    if name not in READERS:
        return resolve(data)
    try:
        return READERS[name](*(decode(item, resolve) for item in data[1:]))
    except (TypeError, ArithmeticError) as error:
        raise ValueError(f"not a value: {error}") from error


def plain(output: bytes) -> str:
    """A text without white space at the ends of lines and of the whole."""
    text = output.decode(errors="surrogateescape").replace("\r\n", "\n").rstrip()
    return "\n".join(line.rstrip() for line in text.split("\n"))


def digest(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def send(connection: socket.socket, message: Any) -> None:
    """Send one message."""
    data = json.dumps(message).encode()
    connection.sendall(struct.pack("!Q", len(data)) + data)


def receive(connection: socket.socket) -> Any:
    """Receive one message.

    Raises:
        EOFError: The other side is gone, or sends what is no message.
    """
    (length,) = struct.unpack("!Q", _exactly(connection, 8))
    if length > OUTPUT:
        raise EOFError
    return json.loads(_exactly(connection, length))


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        try:
            chunk = connection.recv(min(1 << 20, count - len(data)))
        except ConnectionError:
            chunk = b""
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)
