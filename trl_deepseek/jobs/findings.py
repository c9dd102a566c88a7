"""What a validation has to say of one job: problems, warnings, figures, what it could not see."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from trl_deepseek.errors import RunError, UserError

SHOWN = 100  # rows or lines with faults that are listed


@dataclass(frozen=True)
class Finding:
    """One thing to say.

    Attributes:
        message: As the command would say it.
        place: ``file:line`` where that is known.
    """

    message: str
    place: str | None = None


@dataclass
class Report:
    """What is to be said of one job.

    Attributes:
        problems: What the job would be refused for, or would fail at.
        warnings: What is lost or doubtful, although the job would run.
        unchecked: What could not be looked at, and why.
        facts: Figures: rows, tokens of the first batch, its loss, bytes of a checkpoint.
    """

    problems: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, error: UserError | RunError, place: str | None = None) -> None:
        """Note an error, once; of lines that cannot be read each by itself."""
        place = getattr(error, "place", None) or place
        lines = getattr(error, "lines", {})
        found = [Finding(fault, line) for line, fault in list(lines.items())[:SHOWN]]
        if len(lines) > SHOWN:
            found.append(Finding(f"{len(lines) - SHOWN} more lines are no rows either", place))
        for finding in found or [Finding(str(error.args[0]), place)]:
            if finding not in self.problems:
                self.problems.append(finding)


class Warnings(logging.Handler):
    """Keeps what the package warns of."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self.report = report

    def emit(self, record: logging.LogRecord) -> None:
        """Note a warning, once."""
        finding = Finding(record.getMessage())
        if finding not in self.report.warnings:
            self.report.warnings.append(finding)
