"""The contract around every tool: its deadline, what its output may be, and what a failure means.

TRL calls a guarded function in a tool's place, and tells the model ``{"error": ...}`` of whatever
that raises. So a call that hangs, raises, returns garbage or has arguments that do not fit is an
answer that the model reads, and is counted; with ``on_error="raise"`` it stops the run.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from trl_deepseek.errors import ConfigError, RunError
from trl_deepseek.tools import running
from trl_deepseek.types import Tool

COUNTED = ("calls", "errors", "timeouts")


@dataclass(frozen=True)
class Settings:
    """How a run treats its tools.

    Attributes:
        on_error: ``tell`` the model, or ``raise``.
        timeout: Seconds that one call may take; None for no limit.
        isolate: Whether every tool runs in a worker process.
    """

    on_error: Literal["tell", "raise"] = "tell"
    timeout: float | None = 30.0
    isolate: bool = False


class ToolFailed(Exception):
    """What the model is told of a call that did not end well."""


@dataclass
class Guard:
    """The tools of one run under the contract.

    Args:
        tools: As ``resolve`` returns them.
        settings: What a failure means.
        control_tokens: Finds a control token in an output, which would be read as one; None where
            the tokenizer reads them as text.

    Attributes:
        functions: What to give to TRL in their place, in the same order.
        counts: Tool to calls, errors and timeouts since they were last taken.
        failure: The first failure, where one stops the run.
        environments: What makes the environments of the run under the same contract.

    Raises:
        ConfigError: A tool that has to run in a worker process cannot.
    """

    tools: list[Tool]
    settings: Settings
    control_tokens: re.Pattern[str] | None = None
    functions: list[Callable[..., str]] = field(init=False)
    counts: dict[str, dict[str, int]] = field(init=False)
    failure: RunError | None = field(init=False, default=None)
    environments: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.counts = {tool.name: dict.fromkeys(COUNTED, 0) for tool in self.tools}
        self.functions = [self._guarded(tool) for tool in self.tools]

    def take_counts(self) -> dict[str, int]:
        """``tools/NAME/calls`` and so on since the last time."""
        taken = {
            f"tools/{n}/{what}": c for n, own in self.counts.items() for what, c in own.items()
        }
        for own in self.counts.values():
            own.update(dict.fromkeys(COUNTED, 0))
        return taken

    def add(self, name: str) -> None:
        """Count a method of an environment too; those of one name in several are counted as one.

        Raises:
            ConfigError: There is a tool of this name.
        """
        if any(tool.name == name for tool in self.tools):
            raise ConfigError(f"two tools are named {name!r}\n  rename one of them")
        self.counts.setdefault(name, dict.fromkeys(COUNTED, 0))

    def called(
        self, name: str, bind: Callable[[], Any], call: Callable[[], running.Outcome], given: Any
    ) -> str:
        """What the model reads of a call.

        Args:
            name: Of the tool.
            bind: Raises TypeError where the arguments do not fit.
            call: Makes the call.
            given: The arguments, for messages.

        Raises:
            ToolFailed: Of a call that did not end well.
        """
        counts = self.counts[name]
        counts["calls"] += 1
        try:
            bind()
        except TypeError as error:  # the model's mistake, which stops no run
            counts["errors"] += 1
            raise ToolFailed(f"{name}: {error}") from None
        outcome = call()
        said = outcome.failure or self.fault_in(outcome.text)
        if said is None:
            return outcome.text
        counts["timeouts" if outcome.timed_out else "errors"] += 1
        if self.settings.on_error == "raise" and self.failure is None:
            self.failure = RunError(
                f"tool {name!r} {said}\n  called with {given!r}\n"
                "  tool_on_error tell tells the model instead, and goes on"
            )
        raise ToolFailed(f"{name} {said}")

    def fault_in(self, text: str) -> str | None:
        """What a text holds that the tokenizer would read as a control token."""
        found = self.control_tokens.search(text) if self.control_tokens else None
        return None if found is None else f"returned the control token {found[0]!r}"

    def _guarded(self, tool: Tool) -> Callable[..., str]:
        limit = self.settings.timeout if tool.timeout is None else tool.timeout
        run = running.isolated if self.settings.isolate or tool.isolate else running.in_thread
        call = run(tool, limit)
        signature = inspect.signature(tool.function)

        @functools.wraps(tool.function)
        def guarded(*args: Any, **arguments: Any) -> str:
            named = dict(zip(signature.parameters, args, strict=False)) | arguments
            return self.called(
                tool.name,
                lambda: signature.bind(*args, **arguments),
                lambda: call(named),
                arguments,
            )

        # as the model calls it
        guarded.__name__ = tool.name
        return guarded
