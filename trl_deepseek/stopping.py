"""Ctrl-C, SIGTERM and SIGHUP: the first asks a run to stop where it can, the next ends it at once.

A command has them handled by :func:`handled`. Where nothing would be gained by waiting, the first
signal raises :class:`Interrupted`; inside :func:`waiting` it is only noted, and whoever does the
work asks :func:`requested` at the end of a step. Signals that were ignored when the process began,
as ``nohup`` and the shell's ``&`` leave them, stay ignored. Nobody else's process gets a handler:
from Python, Ctrl-C is the KeyboardInterrupt that it always was.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Seconds in which several are one: a terminal, a launcher and a batch system each tell a whole
# group of processes, and some of them pass on what they get.
TOGETHER = 1.0


class Interrupted(KeyboardInterrupt):
    """A signal ends the command; the message, if any, says what is saved and how to go on."""

    def __init__(self, by: int, message: str = "") -> None:
        super().__init__(*([message] if message else []))
        self.by = signal.Signals(by)

    @property
    def exit_code(self) -> int:
        """As a shell has it: 129 for SIGHUP, 130 for SIGINT, 143 for SIGTERM."""
        return 128 + self.by

    def __str__(self) -> str:
        cause = "interrupted" if self.by == signal.SIGINT else f"ended by {self.by.name}"
        return f"{cause}; {self.args[0] if self.args else 'nothing was saved'}"


class _Receiver:
    """What has arrived in this process, and what is to be done with it."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.first: signal.Signals | None = None
        self.last = 0.0  # when the last one arrived that counted, seconds
        self.waits = False
        self.passes_on: Callable[[int], None] | None = None
        self.before: dict[int, Any] = {}

    def receive(self, number: int, _: Any) -> None:
        if os.getpid() != self.process:
            return _in_a_fork(number)
        now = time.monotonic()
        if self.first is not None and now - self.last < TOGETHER:
            return None
        is_first, self.last = self.first is None, now
        self.first = self.first or signal.Signals(number)
        if number == signal.SIGHUP:
            _let_go_of_a_terminal_that_is_gone()
        if self.passes_on is not None:
            return self.passes_on(number)
        if self.waits and is_first:
            name = signal.Signals(number).name
            return say(
                f"\n{name}: the run stops after this step and saves a checkpoint; a second one "
                "ends it at once\n"
            )
        if not is_first:  # the next ends the process even where Python does not get its turn
            for each in self.before:
                signal.signal(each, signal.SIG_DFL)
        raise Interrupted(number)


_receiver: _Receiver | None = None


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Have the three signals handled meanwhile; without effect outside the main thread."""
    global _receiver  # handlers belong to the process
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, receiver = _receiver, _Receiver()
    for each in SIGNALS:
        before = signal.getsignal(each)
        if before is not signal.SIG_IGN and before is not None:
            receiver.before[each] = signal.signal(each, receiver.receive)
    _receiver = receiver
    try:
        yield
    finally:
        _receiver = outer
        for number, former in receiver.before.items():
            signal.signal(number, former)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Meanwhile the first signal is noted and no more; see :func:`requested`."""
    if _receiver is None:
        yield
        return
    receiver, _receiver.waits = _receiver, True
    try:
        yield
    finally:
        receiver.waits = False


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Inside of :func:`waiting`: meanwhile the first signal raises after all, also an earlier one.

    Raises:
        Interrupted: By the signal.
    """
    if _receiver is None or not _receiver.waits:
        yield
        return
    receiver, _receiver.waits = _receiver, False
    try:
        if receiver.first is not None:
            raise Interrupted(receiver.first)
        yield
    finally:
        receiver.waits = True


@contextlib.contextmanager
def passing_on(send: Callable[[int], None]) -> Iterator[None]:
    """Meanwhile each signal goes to ``send`` and no further; see :func:`requested`."""
    if _receiver is None:
        yield
        return
    receiver, _receiver.passes_on = _receiver, send
    try:
        yield
    finally:
        receiver.passes_on = None


def requested() -> signal.Signals | None:
    """The first signal that has arrived since the command began."""
    return None if _receiver is None else _receiver.first


def explained(interrupt: KeyboardInterrupt, message: str) -> Interrupted:
    """The same end, saying what is saved."""
    by = interrupt.by if isinstance(interrupt, Interrupted) else signal.SIGINT
    return Interrupted(by, message)


def say(text: str) -> None:
    """Write to stderr from a handler, which may have interrupted a print; one process for all."""
    if os.environ.get("RANK", "0") == "0":
        with contextlib.suppress(OSError):
            os.write(2, text.encode())


def _in_a_fork(number: int) -> None:
    """In a child of a fork, such as a worker of a data loader, that has inherited the handler."""
    if number != signal.SIGINT:  # of which the terminal tells all; the parent decides
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _let_go_of_a_terminal_that_is_gone() -> None:
    """Or the next progress bar would end the run."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)
