r"""The boxes of a text: ``\boxed{}`` with its braces balanced, and those that are one answer."""

from __future__ import annotations

import re

# A box, an escaped character, or a brace; one pass, since a completion may be made of boxes.
_BRACES = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
# TeX's argument without braces is one token: \boxed 7. Of \boxed 73 the 3 stands outside, which
# nobody means, so that it is no box.
_UNBRACED = re.compile(
    r"\\(boxed|fbox)(?:\s*(\\(?:pi|infty|emptyset|varnothing|alpha|beta|theta)(?![A-Za-z]))|\s+(\w)|(\d))"
    r"(?=\s*(?:\$|\\\)|\\\]|</|[.,;:!]?(?:\s+(?![\d.+*/^_=\\-])|\s*\Z)))"
)
_PLACEHOLDER = re.compile(
    r"\s*(?:\\text\s*\{)?[\s.…\[<]*(?:\\[lc]?dots)?"
    r"(?:(?:(?:your|the|final|my)\s+)*(?:answer|result|solution|content)(?:\s+(?:here|goes here))?"
    r"|答案|最终答案|你的答案)?[\s.…\]>]*\}?\s*",
    re.IGNORECASE,
)
_SEPARATORS = re.compile(
    r"(?:[\s,;、，；$&*.•\-–]|\\[,;:! ]|\\q?quad|\b(?:and|or)\b|和|或|与|及"
    r"|(?:for\s+)?\([a-e]\)|(?<=[$\s])[A-Za-z](?:_\{?\d\}?)?\s*=)*"
)
_SAID = re.compile(
    r"\s*(?:\\text\s*\{)?\s*(?:the\s+)?(?:(?:final|correct)\s+)?answer\s*(?:is|:|=)\s*(?:\}\s*|$)?",
    re.IGNORECASE,
)


def braced(text: str) -> str:
    r"""The text with the braces that TeX adds to ``\boxed 7``."""
    return _UNBRACED.sub(lambda m: rf"\{m[1]}{{{m[2] or m[3] or m[4]}}}", text)


def boxed(text: str) -> list[str]:
    r"""What stands in each closed ``\boxed{}`` of a text, braces balanced, in closing order.

    Placeholders, as in "put it in \boxed{}" or "\boxed{your answer}", are left out.
    """
    return [inside for _, _, inside in boxes_in(text, nested=True)[0]]


def grouped(said: str, boxes: list[tuple[int, int, str]]) -> list[list[tuple[int, int, str]]]:
    r"""Boxes that only ``,`` or "and" parts are one answer: \boxed{1} and \boxed{2}."""
    runs: list[list[tuple[int, int, str]]] = []
    for box in boxes:
        if runs and _SEPARATORS.fullmatch(said, runs[-1][-1][1], box[0]):
            runs[-1].append(box)
        else:
            runs.append([box])
    return runs


def said_in(run: list[tuple[int, int, str]]) -> str:
    """What the boxes of one answer say, a list where they are several."""
    return ", ".join(dict.fromkeys(_SAID.sub("", inside, count=1).strip() for *_, inside in run))


def boxes_in(text: str, nested: bool = False) -> tuple[list[tuple[int, int, str]], bool]:
    """Start, end and inside of each innermost box; and whether the last one is cut off."""
    found: list[tuple[int, int, str]] = []
    opened: list[tuple[int, int] | None] = []  # per open brace, the box that it opens
    for token in _BRACES.finditer(text):
        if token[0] == "}":
            box = opened.pop() if opened else None
            if box is not None:
                inside = text[box[1] : token.start()]
                if (
                    found and found[-1][0] >= box[1] and not nested
                ):  # it only holds the box before it
                    found[-1] = (box[0], token.end(), found[-1][2])
                elif not _PLACEHOLDER.fullmatch(inside):
                    found.append((box[0], token.end(), inside))
        elif token[0].endswith("{") and token[0] != r"\{":
            opened.append((token.start(), token.end()) if token[0] != "{" else None)
    return found, any(box is not None for box in opened)
