"""What happens in a run, kept in its folder as it happens: each log, and each warning."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from trl_deepseek.rollouts import record

logger = logging.getLogger(__name__)


class Log(TrainerCallback):
    """Writes each record of the log; where that fails, it says so once and writes no more."""

    def __init__(self) -> None:
        self._file: Path | None = None  # once training has begun

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin anew, or with what had been logged when the checkpoint to go on from was saved."""
        if not state.is_world_process_zero:
            return
        self._file = Path(args.output_dir, record.LOG)
        with self._guarded():
            record.begin(self._file, state.log_history)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Add one line; evaluations behind the end of the training are of it, too."""
        if self._file is not None and logs:
            with self._guarded():
                record.append(self._file, {**logs, "step": state.global_step})

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        def complain(*words: Any) -> None:
            self._file = None
            logger.warning(*words)

        with record.never_failing(complain, record.LOG):
            yield


class _Ear(logging.Handler):
    """Hands on what the package warns of."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, entry: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):  # there is no one to tell of it but this
            self._tell(entry.getMessage())


@contextlib.contextmanager
def heard(tell: Callable[[str], None]) -> Iterator[None]:
    """Meanwhile each warning of the package is handed to ``tell`` as well."""
    package, ear = logging.getLogger("trl_deepseek"), _Ear(tell)
    package.addHandler(ear)
    try:
        yield
    finally:
        package.removeHandler(ear)


@contextlib.contextmanager
def kept(
    folder: Path, before: Sequence[str], step: Callable[[], int], resumed: bool
) -> Iterator[None]:
    """Keep in a run's folder what was warned of before, and what is meanwhile.

    Args:
        folder: Of the run.
        before: Messages.
        step: The number of optimizer steps that have been made.
        resumed: Whether the run goes on; else an earlier one's warnings go.
    """
    file = folder / record.WARNINGS

    def note(message: str, at: int | None = None) -> None:
        record.append(file, {"time": record.now(), "step": at, "message": message})

    with record.never_failing(logger.warning, record.WARNINGS):
        if not resumed:
            file.unlink(missing_ok=True)
        for message in dict.fromkeys(before):
            note(message)
    with heard(lambda message: note(message, step())):
        yield
