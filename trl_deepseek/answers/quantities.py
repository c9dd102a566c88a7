"""Numbers with their units, read exactly or not at all."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_DIGITS = r"(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d?(?:,\d{2})+,\d{3}|[1-9]\d{0,2}(?: \d{3})+|\d+)"
_DECIMAL = rf"(?:{_DIGITS}(?:\.\d*)?|\.\d+)"
_POWER = r"(?:[eE](?P<e>[-+]?\d+)|\s*(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*(?:\{\s*(?P<p>[-+]?\s?\d+)\s*\}|(?P<q>[-+]?\d+)))"  # noqa: E501
_OVER = rf"(?P<over>{_DECIMAL})\s?/\s?(?P<under>{_DECIMAL})"
_LATEX = (
    rf"\\frac\{{\s*(?P<fover>[-+]?\s?{_DECIMAL})\s*\}}\{{\s*(?P<funder>[-+]?\s?{_DECIMAL})\s*\}}"
)
_AMOUNT = re.compile(
    r"(?P<sign>[-+]?)\s?(?P<currency>(?:US|A|C|HK)?[$€£¥₹])?\s?(?P<inner>[-+]?)\s?"
    rf"(?:(?P<mixed>\d+)\s?(?:\\frac\{{\s*(?P<mover>\d+)\s*\}}\{{\s*(?P<munder>\d+)\s*\}}"
    r"|(?<=\s)(?P<nover>\d+)\s?/\s?(?P<nunder>\d+))"
    rf"|{_OVER}|{_LATEX}|(?P<before>\d*)\.(?P<start>\d*)\((?P<again>\d+)\)"
    rf"|(?P<decimal>{_DECIMAL}){_POWER}?)(?P<rest>.*)",
    re.DOTALL,
)
_PERCENT = re.compile(
    r"\s*(?:\\?%|\\text\s*\{\s*(?:percent|per cent|%|\\%)\s*\}|percent|per cent|pct)\s*"
)
_MODULUS = re.compile(r"\s*\(mod (\d{1,9})\)")
_SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
    "百": 100,
    "千": 1000,
    "万": 10**4,
    "亿": 10**8,
}
_SCALE = re.compile(
    rf"\s*(?:\\text\s*\{{\s*)?(?P<scale>{'|'.join(_SCALES)})s?(?![A-Za-z米克])(?P<rest>.*)"
)
# Words that are never a unit: functions, constants, names of variables.
_NO_UNIT = re.compile(
    r"(?<![a-z])(?:pi|sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|frac|theta|alpha|beta|infinity|mod"
    r"|choose|factorial|or|and|to|not|plus|minus|times|is|if|but|is|more|less|remainder|of)(?![a-z])",
    re.IGNORECASE,
)
_SAME = {
    "$": "dollar usd us$ $ dollars bucks",
    "¥": "元 yuan rmb cny 块 块钱 人民币 ¥",
    "€": "euro eur €",
    "£": "pound gbp £",
    "¢": "cent ¢",
    "°": "degree deg ° 度",
    "°c": "°c celsius 摄氏度",
    "°f": "°f fahrenheit 华氏度",
    "cm": "centimeter centimetre 厘米 cm",
    "mm": "millimeter millimetre 毫米 mm",
    "m": "meter metre 米 m",
    "km": "kilometer kilometre 千米 公里 km",
    "in": "inch inche in",
    "ft": "foot feet ft",
    "mi": "mile mi",
    "yd": "yard yd",
    "g": "gram 克 g",
    "kg": "kilogram 千克 公斤 kg kilo",
    "lb": "lb lbs",
    "s": "second sec 秒 s 秒钟",
    "min": "minute min 分钟 分",
    "h": "hour hr h 小时",
    "d": "day 天 日",
    "week": "week 周",
    "month": "month 月 个月",
    "year": "year yr 年 岁",
    "l": "liter litre l 升",
    "ml": "milliliter millilitre ml 毫升",
    "mi/h": "mph",
    "km/h": "kph kmh",
    "n": "newton 牛 牛顿",
    "j": "joule 焦 焦耳",
    "w": "watt 瓦",
    "v": "volt 伏",
    "pa": "pascal 帕",
    "hz": "hertz 赫兹",
    "mol": "mole 摩尔",
    "person": "people 人 名",
    "ohm": "欧 欧姆",
    "unit": "unit 个 个单位",
    "rad": "radian rad",
}
_CANONICAL = {word: name for name, words in _SAME.items() for word in words.split()}
_LETTERS = "msghlLNJVWAKCF"  # one letter that is a unit when it stands alone after a space


@dataclass(frozen=True)
class Quantity:
    """A number as it was written.

    Attributes:
        value: The number; of a percentage what stands before the sign.
        percent: Whether it is a percentage.
        unit: In one spelling; empty where there is none.
        places: Decimals that were written; None for what is exact: integers, fractions.
        digits: Significant digits that were written.
    """

    value: Fraction
    percent: bool = False
    unit: str = ""
    places: int | None = None
    digits: int = 0


def read_quantity(text: str) -> Quantity | None:
    """The number that all of a normalised text is; None where it is more or something else."""
    if len(text) > 4000:
        return None
    found = _AMOUNT.fullmatch(re.sub(r"^([-+]?)10\s*\^", r"\g<1>1\\times 10^", text))
    if not found or (found["sign"] and found["inner"]):
        return None
    try:
        value, places, digits = _value(found)
    except (ZeroDivisionError, ValueError):
        return None
    if "-" in (found["sign"], found["inner"]):
        value = -value
    rest = found["rest"]
    scale = _SCALE.fullmatch(rest)
    if scale:
        value *= _SCALES[scale["scale"]]
        rest = scale["rest"].removeprefix("}")
    percent = _PERCENT.fullmatch(rest) is not None
    modulus = _MODULUS.fullmatch(rest)
    if modulus:  # 7 (mod 10) is 7; 17 (mod 10) is not 17
        least = value.denominator == 1 and 0 <= value < int(modulus[1])
        return Quantity(value, unit=f"(mod {modulus[1]})", digits=digits) if least else None
    unit = "" if percent else read_unit(rest)
    if unit is None:
        return None
    if found["currency"]:
        currency = _CANONICAL.get(found["currency"].lower(), found["currency"])
        if percent or (unit not in ("", currency) and not unit.startswith("/")):
            return None
        unit = currency + unit.removeprefix(currency)
    return Quantity(value, percent, unit, places, digits)


def _value(found: re.Match[str]) -> tuple[Fraction, int | None, int]:
    if found["mixed"]:
        over, under = found["mover"] or found["nover"], found["munder"] or found["nunder"]
        part = Fraction(int(over), int(under))
        if part >= 1:
            raise ValueError("3 5/2 is no mixed number")
        return int(found["mixed"]) + part, None, 0
    if found["over"]:
        return _decimal(found["over"]) / _decimal(found["under"]), None, 0
    if found["fover"]:
        return _decimal(found["fover"]) / _decimal(found["funder"]), None, 0
    if found["again"]:
        start, again = found["start"], found["again"]
        whole = Fraction(int((found["before"] or "0") + start), 10 ** len(start))
        return whole + Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(start)), None, 0
    text = found["decimal"]
    power = int((found["e"] or found["p"] or found["q"] or "0").replace(" ", ""))
    if abs(power) > 9999:
        raise ValueError("too large to hold")
    _, point, decimals = text.partition(".")
    places = len(decimals) - power if point and decimals else None
    digits = len(text.replace(".", "").replace(",", "").lstrip("0"))
    return _decimal(text) * Fraction(10) ** power, places, digits


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace(" ", "").removesuffix("."))


def read_unit(rest: str) -> str | None:
    """What follows a number, as a unit in one spelling; None where it is something else."""
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", rest)
    written = "\\text" in rest or re.search(r"[\u4e00-\u9fff]", rest)
    text = re.sub(r"\^\\circ\s*", "°", text).replace(r"\cdot", "·" if written else r"\cdot").strip()
    if not text:
        return ""
    text = re.sub(r"\\Omega|Ω", "ohm", text)
    text = re.sub(r"\\mu\s*|μ", "µ", text)
    if re.fullmatch(r"of (?:the|an?|his|her|their|its|all) [A-Za-z ]+", text):
        return ""  # 3/4 of the cake
    if text.startswith("^"):
        return None  # a power of the number itself
    bare = re.sub(r"\^\s*\{?\s*([-\d]+)\s*\}?", r"^\1", text)
    if not re.fullmatch(r"°?[A-Za-zµ\u4e00-\u9fff°¢$€£¥ ./·^'\d-]*", bare) or _NO_UNIT.search(bare):
        return None
    if re.search(r"(?<![\^\d-])-?\d", re.sub(r"\^-?\d+", "", bare)):
        return None
    if not re.search(r"[^\W\d_]|[°¢$€£¥]", bare):
        return None  # 12-
    words = bare.lower().replace(" per ", "/").replace("．", ".")
    words = re.sub(r"\b(?:square|sq\.?)\s+(\S+)", r"\1^2", words)
    words = re.sub(r"\b(?:cubic|cu\.?)\s+(\S+)", r"\1^3", words)
    words = words.replace("平方", "²").replace("立方", "³")
    words = re.sub(r"([²³])(\S+)", lambda m: f"{m[2]}^{'2' if m[1] == '²' else '3'}", words)
    parts = re.split(r"([\s/^·]+)", words.strip(" ."))
    known = all(_singular(part) in _CANONICAL for part in parts[::2] if not part.isdigit())
    if not written and not known and re.search(r"(?<![A-Za-z])[a-z]{1,2}(?![A-Za-z])", words):
        return None  # 5x, 3ab: variables
    if not written and len(bare) == 1 and (bare not in _LETTERS or not rest.startswith(" ")):
        return None if bare.isascii() and bare.isalpha() else bare
    return "".join(_CANONICAL.get(_singular(p), _singular(p)) if i % 2 == 0 else p.strip() or " "
                   for i, p in enumerate(parts))  # fmt: skip


def _singular(word: str) -> str:
    word = word.strip(".")
    if word in _CANONICAL:
        return word
    return word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith("ss") else word


def units_agree(one: str, other: str) -> bool:
    """Whether two units may be one: either was left out, or one says more than the other."""
    if not one or not other or one == other or "unit" in (one, other):
        return True
    first, second = set(one.split()), set(other.split())
    return bool(first - set(_SAME)) and (first <= second or second <= first)


def same_number(gold: Quantity, given: Quantity) -> bool:
    """Whether two quantities are one number.

    Differs from math-verify, which rounds to six decimals and so takes 1e-7 for 2e-7 and 0.5000001
    for 0.5: a decimal is right here where it is equal, or the other's value rounded to at least
    six decimals, as 0.333333 is 1/3.
    """
    if not units_agree(gold.unit, given.unit):
        return False
    values = [(gold.value, given.value)]
    if gold.percent != given.percent:
        share, number = (gold, given) if gold.percent else (given, gold)
        values = [(share.value / 100, number.value)]
        if abs(share.value) > 1:  # "what percentage?" is answered by 75 as by 75%
            values.append((share.value, number.value))
    return any(a == b or _rounded(gold, given, a, b) for a, b in values)


def _rounded(gold: Quantity, given: Quantity, a: Fraction, b: Fraction) -> bool:
    if a == 0 or b == 0:
        return False
    for one, other, exact, written in ((gold, given, a, b), (given, gold, b, a)):
        fine = other.places is not None and other.places >= 6 <= other.digits
        if one.places is None and one.value.denominator != 1 and fine and other.places is not None:
            places = other.places + (2 if other.percent and not one.percent else 0)
            if not _terminates(exact) and abs(exact - written) * 2 <= Fraction(1, 10**places):
                return True
    return abs(a - b) <= abs(a) * Fraction(1, 10**14) and None not in (gold.places, given.places)


def _terminates(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1
