"""The form of an answer: a quantity, words, a list, something in brackets, or a formula."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from trl_deepseek.answers.notation import normalise, split_top
from trl_deepseek.answers.number_words import in_digits
from trl_deepseek.answers.quantities import Quantity, read_quantity, read_unit

Kind = Literal["quantity", "words", "choice", "list", "brackets", "union", "formula"]

_COMMAS = re.compile(
    r"\s*(?:[,;]\s*(?:(?:and|or)(?![A-Za-z]))?|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])"
    r"|和|或|与|及|且)\s*"
)
_CUPS = re.compile(r"\s*(?:\\cup(?![A-Za-z])|(?<=[\])])\s*[Uu]\s*(?=[\[(]))\s*")
_LABEL = re.compile(
    r"(?P<label>(?:[A-Za-z]|\\angle ?[A-Z]{1,3}|\\[a-z]+|\\frac\{d[a-z]?\}\{d[a-z]\})"
    r"(?:_(?:\w|\{[^{}]*\}))?(?:\^\{-1\})?'*(?:\s?\([a-z](?:, ?[a-z])*\))?)"
    r"\s*(?:=|\\equiv(?=[^=]*\(mod )|\\in(?![A-Za-z])|\bin\b|\\approx(?=\s*-?\d*\.\d))"
    r"\s*(?P<rest>[^=]+)"
)
_POINT = re.compile(r"(\(\s*[a-z](?:\s*,\s*[a-z])+\s*\))\s*=\s*(?=\()")
_NO_LABEL = re.compile(
    r"\\(?:frac(?!\{d[a-z]?\}\{d)|sqrt|text|pm|sin|cos|tan|log|ln|begin|emptyset|infty|pi)"
)
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|ne|lt|gt|approx|equiv|mid)(?![A-Za-z])")
_CLOCK = re.compile(
    r"\d{1,2}:\d{2}(?::\d{2})?|\d{1,2}(?::\d{2}){0,2}\s*\\?(?:text\s*\{)?\s*[ap]\.?\s?m\.?\s*\}?",
    re.IGNORECASE,
)
_MONTH = re.compile(
    r"\b(?:jan|feb|mar|apr|may|june?|july?|aug|sept?|oct|nov|dec)(?:[a-z]{2,6})?\.? \d",
    re.IGNORECASE,
)
_DATE = re.compile(r"\d{4}([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2\d{4}")
_RATIO = re.compile(r"[-\d.\\{}a-z]+(?:\s?:\s?[-\d.\\{}a-z]+)+")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_CHOICE = re.compile(
    r"(?:\(\s*(?P<a>[A-Z])\s*\)|\\text\s*\{\s*\(\s*(?P<b>[A-Za-z])\s*\)?\s*\}\s*\)?"
    r"|\(\s*\\text\s*\{\s*(?P<c>[A-Z])\s*\}\s*\)|\\text\s*\{\s*(?P<d>[A-Z])[.)]?\s*\}"
    r"|\(\s*(?P<f>[a-e])\s*\)(?=\s+(?:\d|\\(?:frac|sqrt|pi)\b))"  # (a) 40: the part of a question
    r"|(?P<e>[A-H])\s*[.):](?=\s))\s*(?P<rest>(?!,).*)",
    re.DOTALL,
)
_MEASURED = re.compile(
    r"(?P<formula>.*[^\s^_{])\s*(?P<unit>\\text\s*\{[^{}]*[a-z][^{}]*\}(?:\s*\^\s*\{?\d\}?)?|(?<=[\d}a-z])[\u4e00-\u9fff]+)"
)
LONGEST = 1000  # characters; more are no answer
_EMPTY = {r"\emptyset", r"\{\}", r"\{ \}"}
_WORD_FORMULA = re.compile(r"\\(?!text\b|circ\b|%|\$)[A-Za-z]+|[\^_+*=<>|{}\\]|\d\s*/\s*\d")


@dataclass(frozen=True)
class Reading:
    """One answer, read.

    Attributes:
        kind: Its form.
        text: It, normalised; of words the lower case.
        label: What it is the value of, as the ``x`` of ``x = 5``; empty where that is not said.
        quantity: Of a quantity; of words that say one, such as "twelve".
        items: Of a list, brackets or a union; of a choice what follows the letter.
        brackets: Of brackets, both: ``()``, ``[)``, ``{}``.
        unit: Of a formula, such as 4π cm.
    """

    kind: Kind
    text: str
    label: str = ""
    quantity: Quantity | None = None
    items: tuple[Reading, ...] = ()
    brackets: str = ""
    unit: str = ""


def read(text: str, in_brackets: bool = False) -> Reading | None:
    """Read one answer; None where nothing stands there.

    Args:
        text: What the answer says.
        in_brackets: Whether commas part its items, so that 1,234 is two numbers.
    """
    return _read(normalise(text), "", in_brackets, 0) if len(text) <= LONGEST else None


def _read(text: str, label: str, in_brackets: bool, depth: int) -> Reading | None:
    text = text.strip()
    if not text or depth > 8:
        return None
    if text in _EMPTY:
        return Reading("brackets", text, label, brackets="{}")
    if _CLOCK.fullmatch(text) or _DATE.fullmatch(text) or _RATIO.fullmatch(text):
        # The parser behind math-verify takes 3:4 for 3/4, and 2024-1-5 for a difference.
        return Reading("words", words(text), label)
    point = _POINT.match(text)
    if point and not label:
        return _read(text[point.end() :], re.sub(r"\s", "", point[1]), in_brackets, depth + 1)
    labelled = _LABEL.fullmatch(text)
    if labelled and not label and not _NO_LABEL.match(text) and not _RELATION.search(labelled[2]):
        name = re.sub(r"[\s{}]", "", labelled["label"])
        if not re.search(r",\s*(?:[A-Za-z]|\\[a-z]+)\s*=", labelled["rest"]):
            return _read(labelled["rest"], name, in_brackets, depth + 1)
    if not (in_brackets and "," in text):
        quantity = read_quantity(text)
        if quantity is not None:
            return Reading("quantity", text, label, quantity)
    choice = _CHOICE.fullmatch(text)
    if choice:
        letter = next(filter(None, choice.group("a", "b", "c", "d", "e", "f"))).upper()
        rest = _read(choice["rest"], "", False, depth + 1)
        return Reading("choice", letter, label, items=(rest,) if rest else ())
    return (
        _brackets(text, label, depth)
        or _union(text, label, depth)
        or _list(text, label, depth)
        or _plain(text, label)
    )


def _brackets(text: str, label: str, depth: int) -> Reading | None:
    ends = _enclosed(text)
    if ends is None:
        return None
    opening, closing, inside = ends
    parts = split_top(inside, re.compile(r"\s*[,;]\s*"))
    if len(parts) == 1:
        if (opening, closing) == ("(", ")"):
            return _read(inside, label, False, depth + 1)
        if opening != "{" or re.search(r"\||:|\\mid", inside):
            return None
    items = _each(parts, depth, in_brackets=True)
    if items is None:
        return None
    return Reading("brackets", text, label, items=items, brackets=opening + closing)


def _enclosed(text: str) -> tuple[str, str, str] | None:
    for opening, closing, short in ((r"\{", r"\}", "{}"), (r"\langle", r"\rangle", "<>")):
        if text.startswith(opening) and text.endswith(closing):
            inside = text[len(opening) : -len(closing)]
            return (short[0], short[1], inside) if opening not in inside else None
    if text[0] not in "([" or text[-1] not in ")]":
        return None
    depth = 0
    for place, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if not depth and place < len(text) - 1:
            return None
    return (text[0], text[-1], text[1:-1]) if not depth else None


def _union(text: str, label: str, depth: int) -> Reading | None:
    parts = split_top(text, _CUPS)
    items = _each(parts, depth, in_brackets=True) if len(parts) > 1 else None
    if items is None or any(item.kind != "brackets" for item in items):
        return None
    return Reading("union", text, label, items=items)


def _list(text: str, label: str, depth: int) -> Reading | None:
    if _is_prose(re.sub(r"\b(?:and|or)\b", ",", text)) and not re.search(r"\d", text):
        return None
    if _MONTH.search(text) or re.fullmatch(r"\d{1,2} [A-Za-z]+,? \d{4}", text):
        return None  # June 20, 2024
    parts = split_top(text, _COMMAS)
    parts = [value for part in parts for value in _both_signs(part)]
    if len(parts) == 1:
        return None
    items = _each(parts, depth, in_brackets=True)
    if items is None:
        return None
    if items[0].label and not any(item.label for item in items[1:]):  # n = 1, 2, 3
        label = label or items[0].label
        first = _read(items[0].text, "", True, depth + 1)
        items = (first or items[0], *items[1:])
    if label == "" and items[0].label and len({item.label for item in items}) == 1:
        label = items[0].label  # x = 1 or x = 2
        items = tuple(_read(item.text, "", True, depth + 1) or item for item in items)
    return Reading("list", text, label, items=items)


def _both_signs(part: str) -> list[str]:
    r"""Both values of ``3 \pm \sqrt{2}``."""
    if part.count(r"\pm") != 1 or r"\mp" in part:
        return [part]
    return [part.replace(r"\pm", "+").strip().removeprefix("+"), part.replace(r"\pm", "-")]


def _each(parts: list[str], depth: int, in_brackets: bool) -> tuple[Reading, ...] | None:
    if len(parts) > 200:
        return None
    items = [_read(part, "", in_brackets, depth + 1) for part in parts]
    found = tuple(item for item in items if item is not None)
    return found if len(found) == len(items) else None


def _plain(text: str, label: str) -> Reading:
    if _is_prose(text):
        return Reading("words", words(text), label, quantity=read_quantity(in_digits(text)))
    measured = _MEASURED.fullmatch(text)
    unit = read_unit(measured["unit"]) if measured else None
    if measured and unit:
        return Reading("formula", measured["formula"].strip(), label, unit=unit)
    return Reading("formula", text, label)


def _is_prose(text: str) -> bool:
    r"""Whether it is words: ``\text{even}``, Paris, June 20; not ``xy`` and not ``\sin x``."""
    plain = _TEXT.sub(r" \1 ", text).strip()
    if _WORD_FORMULA.search(plain):
        return False
    if _MONTH.search(plain) or ("\\text" in text and not re.search(r"\d", plain)):
        return True
    if re.search(r"[\u4e00-\u9fff]", plain):
        return True
    word = r"(?<![A-Za-z])(?!(?:sin|cos|tan|log|ln|exp|pi|sqrt)\b)[A-Za-z]{3,}"
    return bool(re.search(word, plain) or re.fullmatch(r"(?i)no|ok|[a-z]+ [a-z ]+", plain))


def words(text: str) -> str:
    """Words in one spelling: lower case, without articles, commas and full stops."""
    plain = _TEXT.sub(r" \1 ", text).lower()
    plain = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b", "", plain)
    plain = re.sub(r"(?<=[a-z])\.|[\"!?]|,(?=\s)|\.$", "", plain)
    plain = re.sub(r"\b(?:the|an?)\s+(?=[a-z])", "", plain)
    plain = re.sub(r"\s*:\s*", ":", re.sub(r"\s+", " ", plain)).strip()
    pair = re.fullmatch(r"(\w+(?: \w+)?) and (\w+(?: \w+)?)", plain)
    return " and ".join(sorted(pair.groups())) if pair else plain
