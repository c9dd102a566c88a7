"""Text that is being generated, taken apart into reasoning and answer as it comes."""

from __future__ import annotations

from collections.abc import Iterator

from trl_deepseek.chat.reasoning import CLOSE, OPEN


class Parting:
    """Takes pieces of an answer and says of each part whether it is reasoning; tags are left out.

    Args:
        reasons: Whether the prompt has opened the reasoning already.
    """

    def __init__(self, reasons: bool) -> None:
        self.reasons = reasons
        self._held = ""  # what may be the beginning of a tag

    def feed(self, text: str) -> Iterator[tuple[bool, str]]:
        """The parts of a piece: whether it is reasoning, and the text."""
        self._held += text
        while True:
            tag = CLOSE if self.reasons else OPEN
            before, found, after = self._held.partition(tag)
            if not found:
                break
            if before:
                yield self.reasons, before
            self.reasons, self._held = not self.reasons, after
        keep = _beginning_of(tag, self._held)
        said, self._held = (
            self._held[: len(self._held) - keep],
            self._held[len(self._held) - keep :],
        )
        if said:
            yield self.reasons, said

    def end(self) -> Iterator[tuple[bool, str]]:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, ""
        if held:
            yield self.reasons, held


def _beginning_of(tag: str, text: str) -> int:
    """How many characters at the end of ``text`` may begin ``tag``."""
    return next((size for size in range(len(tag) - 1, 0, -1) if text.endswith(tag[:size])), 0)
