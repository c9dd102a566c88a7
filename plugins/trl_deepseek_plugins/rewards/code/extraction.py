"""The code of an answer: what stands in its fences, in the forms that models write them."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Collection
from typing import Literal

Fence = Literal["last", "first", "longest", "all"]

PYTHON = ("python", "python3", "py")
_OPENING = re.compile(r"^[ \t>]*(?:[-*+]|\d+[.)])?[ \t]*(`{3,}|~{3,})[ \t]*([\w+#.-]*)([^\n]*)$")
_TAGGED = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL)
_QUOTED = re.compile(r"^[ \t]*> ?(?:`{3}|~{3})", re.MULTILINE)
_STRINGS = re.compile(
    r"""\#[^\n]* | \"{3} | '{3} | "(?:\\.|[^"\\\n])*"? | '(?:\\.|[^'\\\n])*'?""", re.VERBOSE
)
_CHOICES: dict[str, Callable[[list[str]], str]] = {
    "last": lambda blocks: blocks[-1],
    "first": lambda blocks: blocks[0],
    "longest": lambda blocks: max(blocks, key=len),
    "all": "\n\n".join,
}


def extract(answer: str, fence: Fence = "last", defining: Collection[str] = ()) -> str:
    """The Python of an answer; empty where it has no fence.

    Fences of backticks or tildes, indented or not, with any line ends; one that is never closed
    goes to the end. Blocks tagged ``python`` go before others. Nothing is parsed or run.

    Args:
        answer: The answer's text.
        fence: Which of several blocks; ``last`` is the last of those that define most of the names,
            since what follows a function is often an example of its use.
        defining: Names that tests use.

    Raises:
        ValueError: ``fence`` is not one of the four.
    """
    if fence not in _CHOICES:
        raise ValueError(f"fence is {fence!r}; it must be one of {', '.join(_CHOICES)}")
    tagged = _TAGGED.fullmatch(answer)
    answer = tagged[1] if tagged else answer
    if _QUOTED.search(answer):
        answer = re.sub(r"^[ \t]*> ?", "", answer, flags=re.MULTILINE)
    blocks = _blocks(answer.replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    python = [code for tag, code in blocks if tag in PYTHON]
    blocks_of_code = python or [code for _, code in blocks] or [""]
    if fence == "last":
        defined = [sum(_defines(code, name) for name in defining) for code in blocks_of_code]
        blocks_of_code = [
            code
            for code, count in zip(blocks_of_code, defined, strict=True)
            if count == max(defined)
        ]
    return _CHOICES[fence](blocks_of_code)


def _defines(code: str, name: str) -> bool:
    name = re.escape(name)
    return bool(re.search(rf"^(?:(?:async\s+)?def|class)\s+{name}\b|^{name}\s*=", code, re.M))


def _blocks(lines: list[str]) -> list[tuple[str, str]]:
    """Tag and code of each fenced block."""
    found = []
    at = 0
    while at < len(lines):
        opening = _OPENING.match(lines[at])
        at += 1
        if opening is None or "`" in opening[3]:
            continue
        end = _end(lines, at, opening[1])
        code = "\n".join(lines[at:end])
        found.append((opening[2].lower(), textwrap.dedent(code)))
        at = end + 1
    return found


def _end(lines: list[str], start: int, mark: str) -> int:
    """The line that closes the block; not one inside a string of three quotes, if another does."""
    first = None
    quote = ""  # what ends the string of three quotes that a line begins in
    for at in range(start, len(lines)):
        line = lines[at].strip()
        if len(line) >= len(mark) and not line.strip(mark[0]):
            if not quote:
                return at
            first = at if first is None else first
        quote = _quote_after(lines[at], quote)
    return len(lines) if first is None else first


def _quote_after(line: str, quote: str) -> str:
    """The quotes of the string that is open after ``line``; empty where none is."""
    at = 0
    while True:
        if quote:
            closing = line.find(quote, at)
            while closing > 0 and line[closing - 1] == "\\":
                closing = line.find(quote, closing + 1)
            if closing < 0:
                return quote
            at, quote = closing + 3, ""
        token = _STRINGS.search(line, at)
        if token is None:
            return ""
        at = token.end()
        quote = token[0] if token[0] in ('"""', "'''") else ""
