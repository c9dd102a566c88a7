r"""One way to write what is written in many: ``\frac12``, ``\dfrac{1}{2}`` and ``½`` are one."""

from __future__ import annotations

import re

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u200b\u200c\u200d\ufeff\u2060", ""),
        **dict.fromkeys("\u00a0\u2009\u202f\u2002\u2003\u3000", "\\,"),
        **dict.fromkeys("−–—﹣", "-"),
        "×": r"\times ",
        "÷": r"\div ",
        "·": r"\cdot ",
        "⋅": r"\cdot ",
        "√": r"\sqrt ",
        "π": r"\pi ",
        "∞": r"\infty ",
        "≤": r"\le ",
        "≥": r"\ge ",
        "≠": r"\ne ",
        "≈": r"\approx ",
        "￥": "¥",
        "￡": "£",
        "°": r"^\circ ",
        "∪": r"\cup ",
        "∩": r"\cap ",
        "∅": r"\emptyset ",
        "∈": r"\in ",
        "±": r"\pm ",
        "½": r"\frac{1}{2}",
        "¼": r"\frac{1}{4}",
        "¾": r"\frac{3}{4}",
        "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}",
        "⅛": r"\frac{1}{8}",
        "θ": r"\theta ",
        "、": ", ",
        "【": "[",
        "】": "]",
        "⁄": "/",
        "′": "'",
        "α": r"\alpha ",
        "β": r"\beta ",
        "“": '"',
        "”": '"',
        "’": "'",
        "℃": r"^\circ C",
        "℉": r"^\circ F",
        "ℝ": r"\mathbb{R}",
    }
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_STYLES = re.compile(
    r"\\(?:textbf|textrm|textit|textsf|texttt|textnormal|mbox|hbox|mathrm|mathbf|mathit|mathsf"
    r"|mathtt|underline|boldsymbol|bm|operatorname\*?)\b\s*(?=\{)"
)
_COMMANDS = [
    (r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|bf|rm|left|right|bigl?|bigr"
     r"|Bigl?|Bigr|biggl?|biggr|Biggl?|Biggr)(?![A-Za-z])\s*\.?(?<!\.)", ""),
    (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
    (r"\\[dt]binom(?![A-Za-z])", r"\\binom"),
    (r"\\(?:leq|leqslant|leqq)(?![A-Za-z])", r"\\le "),
    (r"\\(?:geq|geqslant|geqq)(?![A-Za-z])", r"\\ge "),
    (r"\\pounds(?![A-Za-z])", "£"),
    (r"\\neq(?![A-Za-z])", r"\\ne "),
    (r"\\(?:varnothing|O)(?![A-Za-z])", r"\\emptyset "),
    (r"\\lbrace(?![A-Za-z])", r"\\{"),
    (r"\\rbrace(?![A-Za-z])", r"\\}"),
    (r"\\l?[vV]ert(?![A-Za-z])|\\r[vV]ert(?![A-Za-z])", "|"),
    (r"\\(?:dots|cdots)(?![A-Za-z])|(?<=,)\s*(?:\.\.\.|…)", r"\\ldots "),
    (r"\\(?:pmod|bmod|mod)\s*\{?\s*(\w+)\s*\}?", r" (mod \1)"),
    (r"\\lg(?![A-Za-z])", r"\\log_{10}"),
    (r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree(?![A-Za-z])|\\textdegree", r"^\\circ "),
]  # fmt: skip
# A thousands separator that is a space of some kind: 12\,500, 12~500, 12{,}500, 3,\!000
_THIN = re.compile(r"(?<=\d)(?:(?<!\\)\\[,;:!> ]|~)+(?=\d{3}(?:\D|$))")
_SPACES = re.compile(
    r"(?<!\\)\\[,;:> ]|\\q?quad(?![A-Za-z])|\\(?:h|thin)space(?:\{[^{}]*\})?|~|\s+"
)
_ARGUMENT = r"(\{[^{}]*(?:\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}[^{}]*)*\}|\\[A-Za-z]+|[^\s\\{}])"
_FRACTION = re.compile(rf"\\frac\s*{_ARGUMENT}\s*{_ARGUMENT}")
_BINOMIAL = re.compile(rf"\\binom\s*{_ARGUMENT}\s*{_ARGUMENT}")
_ROOT = re.compile(r"\\sqrt\s*(\[[^\]]*\])?\s*(\d|[A-Za-z]|\\[A-Za-z]+)")
_REPEATING = re.compile(
    r"(\d*\.\d*)\\(?:overline|bar|dot|overbar)\s*\{?\s*(\d+)\s*\}?(?:\\dot\s*\{?(\d)\}?)?"
)
_ARRAY = re.compile(r"[(\[]\s*\\begin\{array\}\s*\{[^{}]*\}(.*?)\\end\{array\}\s*[)\]]", re.DOTALL)
_ASIDE = re.compile(r",?\s*\\text\s*\{[\s,]*(?:for (?:any|all|every|each)|where) [^{}]*\}[^<>=]*$")
_ANY_INTEGER = re.compile(
    r"(?<=\S)[,;]?\s*\(?\s*([kmn])\s*\\in\s*(?:\\mathbb|\\text)?\s*\{?Z\}?\s*\)?$"
)
_ROUGHLY = re.compile(
    r"^\s*(?:about|approximately|approx\.?|roughly|around|exactly|only|just|约|大约)\s*(?=[-\d$\\.])"
    r"|\s*\((?:rounded[^()]*|approximately|approx\.?|exact(?:ly)?)\)\s*$",
    re.IGNORECASE,
)
_LETTERS = re.compile(r"\\text\s*\{\s*(\(?[A-Z]\)?(?:\s*(?:,|and)+\s*\(?[A-Z]\)?)+)\s*\}")
_STEP = re.compile(r"\\(?:begin|end)\{[a-z*]+\}|\\[{}]|\\[lr]angle")
_EDGES = ' \t\n.,;:*_`"。，；：'


def full_width(text: str) -> str:
    """Full-width letters, digits and signs as the usual ones."""
    return text.translate(_FULL_WIDTH)


def normalise(text: str) -> str:
    """An answer without its dress; what it says is the same."""
    text = re.sub(r"√\s*(\d+(?:\.\d+)?)", r"\\sqrt{\1}", text)
    text = text.translate(_FULL_WIDTH).translate(_CHARACTERS)
    text = re.sub("[⁰¹²³⁴-⁹⁻⁺ⁿ]+", lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text)
    text = re.sub("[\U0001f300-\U0001faff\u2600-\u27bf\ufe0f]", "", text)  # a smile
    text = re.sub("(?<=[①-⑳])(?=[①-⑳])", ", ", text)
    text = re.sub(r"\\(?:text)?color\s*\{[^{}]*\}", "", text)
    text = re.sub(r"(?<=[\w)}])\*\*(?=[\d({-])", "^", text)
    text = text.replace("**", "").replace("`", "").replace(r"\!", "").replace("{,}", ",")
    text = _without_dollars(text)
    text = re.sub(r"(?<!\\)\\[\[\]()]", " ", text)
    for pattern, instead in _COMMANDS:
        text = re.sub(pattern, instead, text)
    text = re.sub(r"\\(begin|end)\{[bB]?matrix\}", r"\\\1{pmatrix}", text)
    text = _ARRAY.sub(r"\\begin{pmatrix}\1\\end{pmatrix}", text)
    text = _STYLES.sub(r"\\text", text)
    text = _ASIDE.sub("", text)
    text = _THIN.sub("", text)
    text = _SPACES.sub(" ", text)
    # math-verify takes \text{13} for a word, and reads \text{ and } as letters.
    text = re.sub(r"\\text\s*\{\s*([-+(\[]*\d[^{}]*?)\s*\}", r"\1", text)
    text = re.sub(r"(?<=\d)\s*\^?\{?\\text\s*\{\s*(st|nd|rd|th)\s*\}+", r"\1", text)
    text = re.sub(r"\\text\s*\{\s*(?:,\s*)?(and|or|和|或|与|及|且)\s*\}", r" \1 ", text)
    text = _LETTERS.sub(r"\1", text)
    text = re.sub(r"(?<=\d)'(?=\d{3}(?:\D|$))", "", text)  # 1'000'000, as in Zurich
    text = _ROUGHLY.sub("", text)
    text = re.sub(r"^\s*(?:\\approx(?=\s*-?\d*\.\d)|=)", "", text)
    text = _REPEATING.sub(lambda m: f"{m[1]}({m[2]}{m[3] or ''})", text)
    # The parser behind math-verify needs the braces: it reads neither \frac12 nor \sqrt3.
    text = _ROOT.sub(lambda m: rf"\sqrt{m[1] or ''}{{{m[2]}}}", text)
    for argument in (_FRACTION, _BINOMIAL):
        for _ in range(3):
            text = argument.sub(_braced, text)
    text = re.sub(r"\\\\\s*$", "", text.strip())
    integer = _ANY_INTEGER.search(text)
    if integer:  # 2n\pi, n \in \mathbb{Z}
        letter = re.compile(rf"(?<![A-Za-z\\]){integer[1]}(?![A-Za-z])")
        text = letter.sub("k", text[: integer.start()])
    previous = None
    while text != previous:
        previous, text = text, _trimmed(text)
    return re.sub(r"\s+", " ", text).strip()


def _braced(match: re.Match[str]) -> str:
    name = match[0][: match[0].index("c" if match[0][1] == "f" else "m") + 1]
    over, under = (a if a.startswith("{") else f"{{{a}}}" for a in (match[1], match[2]))
    return f"{name}{over}{under}"


def _trimmed(text: str) -> str:
    text = text.strip()
    keep = text.startswith(".") and text[1:2].isdigit()
    text = text.rstrip(_EDGES) if keep else text.strip(_EDGES)
    if text.startswith("{") and text.endswith("}") and _closes(text, 0) == len(text) - 1:
        text = text[1:-1]
    return text


def _without_dollars(text: str) -> str:
    r"""Without ``$`` around formulas; the ``$`` of a price becomes the word that it is."""
    text = text.replace(r"\$", "§")
    if text.count("$") % 2:
        text = re.sub(r"\$(?=\s?[-+]?[\d.])", "§", text, count=1)
    text = text.replace("$", " ")
    return text.replace("§", "$")


def _closes(text: str, start: int) -> int:
    """Where the bracket at ``start`` is closed; -1 where it is not."""
    depth = 0
    for place in range(start, len(text)):
        if place and text[place - 1] == "\\" and text[place] in "{}":
            continue
        if text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if not depth:
                return place
    return -1


def split_top(text: str, separators: re.Pattern[str]) -> list[str]:
    """The parts between separators that stand in no bracket."""
    parts, depth, start, place = [], 0, 0, 0
    while place < len(text):
        step = _STEP.match(text, place)
        if step:
            depth += 1 if step[0].startswith(("\\begin", "\\{", "\\langle")) else -1
            place = step.end()
            continue
        character = text[place]
        depth += (character in "([{") - (character in ")]}")
        found = separators.match(text, place) if depth == 0 else None
        if found and found.end() > place:
            parts.append(text[start:place])
            start = place = found.end()
            continue
        place += 1
    return [*parts, text[start:]]
