"""What a sampling has finished, beside the file that it will write, so that it can go on.

``.NAME.sampling`` in the folder of ``NAME`` is one JSON object a line: the settings; then the
completions of each prompt, as they are finished; and in the place of these, once ``NAME`` is
written, the summary. Its name begins with a dot, so that nobody reads it as data.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from trl_deepseek.errors import ConfigError
from trl_deepseek.rollouts.drawn import Drawn

logger = logging.getLogger(__name__)

SHOWN = 8  # differences


class Journal:
    """The record of the sampling that writes ``output``.

    Args:
        output: The file to write.
        settings: What decides what is in it, as JSON gives it back.

    Raises:
        ConfigError: The file was written by something else, or with other settings.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any]) -> None:
        self.output = output
        self.file = output.with_name(f".{output.name}.sampling")
        self.settings = dict(settings)
        self._read()

    def _read(self) -> None:
        self.drawn: dict[int, Drawn] = {}
        self.summary: dict[str, Any] | None = None
        self._size = 0  # bytes of the lines that are whole
        lines, torn = _whole_lines(self.file)
        if not lines:
            if self.output.exists():
                raise ConfigError(
                    f"output_file: {str(self.output)!r} exists already, and no sampling of this "
                    "command has written it\n  name another file"
                )
            if torn:
                logger.warning("%s holds no whole line: it begins anew", self.file)
            return
        self._compare(json.loads(lines[0])["settings"])
        for line in lines[1:]:
            content = json.loads(line)
            if "summary" in content:
                self.summary = content["summary"] if self.output.exists() else None
            else:
                drawn = Drawn(**content)
                self.drawn[drawn.prompt] = drawn
        self._size = sum(len(line) + 1 for line in lines)
        if torn:
            logger.warning(
                "%s: its last line was cut off and is dropped; that prompt is sampled again",
                self.file,
            )

    def _compare(self, before: Mapping[str, Any]) -> None:
        names = [n for n in {**before, **self.settings} if before.get(n) != self.settings.get(n)]
        if not names:
            return
        shown = [
            f"{name}: {_short(before.get(name))} -> {_short(self.settings.get(name))}"
            for name in names[:SHOWN]
        ]
        more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
        raise ConfigError(
            "\n  ".join(
                [
                    f"output_file: {str(self.output)!r} is of a sampling with other settings:",
                    *shown,
                    *more,
                    f"name another file, or remove {self.output.name} and {self.file.name} there",
                ]
            )
        )

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Hold the record while completions are added to it.

        Raises:
            ConfigError: Another process holds it.
        """
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConfigError(
                    f"output_file: another sampling is writing {str(self.output)!r}\n"
                    "  wait until it has ended, or name another file"
                ) from error
            stream.truncate(self._size)
            if not self._size:
                _write(stream, [{"settings": self.settings}])
            self._stream = stream
            yield

    def add(self, finished: Sequence[Drawn]) -> None:
        """Note finished prompts; they are on the disk when it returns."""
        _write(self._stream, [each.as_json() for each in finished])
        self.drawn |= {each.prompt: each for each in finished}

    def close(self, summary: Mapping[str, Any]) -> None:
        """The output is written: keep the settings and the summary alone."""
        self.summary = dict(summary)
        lines = [{"settings": self.settings}, {"summary": self.summary}]
        with replacing(self.file) as aside, aside.open("wb") as stream:
            _write(stream, lines)


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A name beside ``file`` to write under, which it takes over at once when all is written."""
    aside = file.with_name(f".aside-{file.name}")
    yield aside
    with aside.open("rb") as written:
        os.fsync(written.fileno())
    aside.replace(file)


def _write(stream: IO[bytes], lines: Sequence[Mapping[str, Any]]) -> None:
    for line in lines:
        stream.write(json.dumps(line).encode() + b"\n")
    stream.flush()
    os.fsync(stream.fileno())


def _whole_lines(file: Path) -> tuple[list[bytes], bool]:
    """The lines that end, and whether one follows that does not."""
    content = file.read_bytes() if file.exists() else b""
    *lines, rest = content.split(b"\n")
    return lines, bool(rest)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
