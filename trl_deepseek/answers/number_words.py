"""Whole numbers in English words: "twelve", "one hundred and five apples"."""

from __future__ import annotations

import re

_BELOW_TWENTY = """zero one two three four five six seven eight nine ten eleven twelve thirteen
    fourteen fifteen sixteen seventeen eighteen nineteen"""
_ONES = {word: value for value, word in enumerate(_BELOW_TWENTY.split())}
_TIES = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * value for value, word in enumerate(_TIES.split(), 2)}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
# What makes another number of the one before it; or that there is more to the answer.
_CHANGES = re.compile(
    r"(?:half|halves|quarters?|points?|square[ds]?|cube[ds]?|first|second|\w*(?:th|ths|rd|rds|fold)|pairs?"
    r"|couples?|scores?|ways?|to|by|from|over|under|out|per|each|is|for|other|another|both|all"
    r"|thing|one|digits?|figures?|nor|at|in|with|than)"
)
_MOST_WORDS = 2  # behind the number: twelve red apples


def in_digits(text: str) -> str:
    """``text`` with digits for the number in words that it begins with; else nothing.

    The rest may be the name of what is counted: up to two words, none of which makes it another
    number (three quarters, two point five, one or two).
    """
    words = (
        re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text).lower().strip(" .").replace("-", " ").split()
    )
    sign = words[:1] in (["negative"], ["minus"])
    words = words[sign:]
    value, used = _value(words)
    rest = words[used:]
    if value is None or len(rest) > _MOST_WORDS:
        return ""
    if not all(word.isalpha() and not _CHANGES.fullmatch(word) for word in rest):
        return ""
    return " ".join(["-" * sign + str(value), *rest])


def _value(words: list[str]) -> tuple[int | None, int]:
    """The number that the words begin with, and how many of them say it."""
    total, part, used = 0, 0, 0
    below: float = 10**12  # what may still be added: "five twenty" is no number
    scale: float = 10**12
    for number, word in enumerate(words):
        if word == "and" and number and words[number - 1] in ("hundred", *_SCALES):
            continue
        if word == "a" and not number and words[1:2] and words[1] in ("hundred", *_SCALES):
            part, below = 1, 1
        elif word in _ONES or word in _TENS:
            size = _ONES.get(word, _TENS.get(word, 0))
            if size >= below or (size == 0 and (part or total)):
                return None, 0
            part, below = part + size, 10 if word in _TENS else 0
        elif word == "hundred":
            if not 0 < part < 100:
                return None, 0
            part, below = part * 100, 100
        elif word in _SCALES:
            if not part or _SCALES[word] >= scale:
                return None, 0
            total, part = total + part * _SCALES[word], 0
            scale, below = _SCALES[word], _SCALES[word]
        else:
            break
        used = number + 1
    return (total + part, used) if used else (None, 0)
