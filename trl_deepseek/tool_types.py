"""What a tool is; imported from :mod:`trl_deepseek.types`, of which this is a part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tool:
    """A registered tool: callable with the registered function's own signature.

    Attributes:
        name: The name it was registered under, by which the model calls it.
        function: Sync or async, with a type for each argument and a docstring that describes the
            function and, under ``Args:``, each argument: the model reads them. It returns text,
            or what JSON can hold.
        timeout: Seconds that one call may take; None for the run's ``tool_timeout``.
        isolate: Whether it runs in a worker process, which is killed at the timeout.
        requires: Modules of optional packages that it imports when it is called; looked for before
            a model is loaded.
    """

    name: str
    function: Callable[..., Any]
    timeout: float | None = None
    isolate: bool = False
    requires: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        limit: Any = self.timeout
        known = isinstance(limit, (int, float)) and not isinstance(limit, bool)
        if limit is not None and not (known and 0 < limit < float("inf")):
            raise ValueError(f"timeout is {limit!r}; it must be seconds above 0, or None")
        if not isinstance(self.isolate, bool):
            raise ValueError(f"isolate is {self.isolate!r}; it must be True or False")

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, *args: Any, **arguments: Any) -> Any:
        """Call the registered function."""
        return self.function(*args, **arguments)
