"""What a command shows, and where: progress bars for people, one JSON object for programs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from trl_deepseek.rollouts import record


def hide_progress_bars() -> None:
    """Switch off the bars of datasets and transformers, whose redraws would fill a log file."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()


@contextlib.contextmanager
def status(first: str) -> Iterator[Callable[[str], None]]:
    """One line on a terminal's stderr about what is going on; yields what changes it."""
    from rich.console import Console

    with Console(stderr=True).status(first) as line:
        yield line.update


@contextlib.contextmanager
def machine_readable(wanted: bool) -> Iterator[None]:
    """Keep stdout for the one JSON object: everything printed inside goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr) if wanted else contextlib.nullcontext():
        yield


def show_report(folder: str) -> None:
    """The last line of a command that leaves a report: where it is."""
    file = Path(folder, record.REPORT)
    if file.is_file():
        print(f"report: {file}")
