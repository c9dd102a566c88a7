"""The letter that an answer to a multiple-choice question chooses."""

from __future__ import annotations

import re

from trl_deepseek.answers.boxes import boxed
from trl_deepseek.answers.finding import claims
from trl_deepseek.answers.notation import full_width

_OPEN = r"[\s\"'“*(（\[【${`#>-]*"
_CLOSE = r"[\s\"'”*)）\]】$}`]*"
_WORDS = (
    r"(?:(?i:option|choice|the|is|letter|definitely|clearly|certainly|surely|selected:?)\s+"
    r"|选项|选择|选)*"
)
_ALONE = re.compile(
    rf"{_OPEN}{_WORDS}{_OPEN}(?P<letter>[A-Za-z]){_CLOSE}(?:[.!。:：,，]|项|选项)*\s*"
)
# (B) 12, B. Paris, B: Paris; not "A person", "A and B"
_LEADING = re.compile(
    rf"{_OPEN}{_WORDS}(?:[\[(（【]\s*(?P<one>[A-Za-z])\s*[\])）】]"
    rf"|{_OPEN}(?P<two>[A-Za-h])(?:{_CLOSE}[.):：、）。]|\s+[-–—]\s"
    r"|,?\s+(?:because|since|as|not|rather than)\s))"
    rf"(?P<rest>.*)",
    re.DOTALL,
)
_CHOOSING = re.compile(
    r"(?:\b(?i:(?:correct|right|best|true) \w+ is)|正确的是|\b(?i:correct)(?=\s*[:：])"
    r"|\b(?i:choose|choosing|pick|select|go with|option|choice)\b(?:\s+(?i:is|the|option|choice"
    r"|letter|would be|should be))*"
    r"|(?:\b(?i:so|hence|thus|therefore|answer"
    r"|it(?:'s| is| must be| has to be)(?: clearly| definitely)?"
    r"|i(?:'d| would) say)\b,?|⇒|∴)"
    r"(?=\s+[(*]*[A-H][)*]*\.?\s*$)|选项?(?:择|为|是)?|应选|故选)[\s:：]*"
    r"[\"'*(（\[【$]*(?P<letter>[A-Z]|[a-z](?=[)）*\s.]*$))(?![A-Za-z'])"
    rf"{_CLOSE}(?=(?P<after>[^.。\n]{{0,40}}))"
)
_PRAISED = re.compile(
    r"(?<![A-Za-z、和与及])(?<![A-H][,，])([A-H])\s*(?:选项|项)?是?(?:正确|对|符合题意)"
    r"|(?:^|(?<=[\s*(]))([A-H])[)*]* is (?:the )?"
    r"(?:most \w+|correct|right|best|true|answer)\b(?! answer\?)"
)
_REJECTED = re.compile(
    r"\s*(?:is|are|was|seems|looks|can be|must be|项)?\s*(?:clearly |also |obviously )?"
    r"(?:wrong|incorrect|false|not|out|excluded|eliminated|ruled out|错|不|排除)"
    r"|\s*(?:,|and|or|/|或|和|、|与|及)\s*"
    r"[\"'*(]*[A-Z]\b",
    re.IGNORECASE,
)
_DENIED = re.compile(r"(?:\bnot|\bnever|n't|不能?|别|勿|\bwrong|\bincorrect|\bfalse)\s*$")
_TAGGED = re.compile(r"<answer>(?P<inside>(?:(?!</?answer>).)*)</answer>", re.DOTALL)
_STYLE = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|textit|mathbf|bf|rm)\s*\{([^{}]*)\}")
_SPACES = re.compile(r"\\[ ,;:!]|\\q?quad|~")


def letter_of(claim: str) -> str | None:
    """The letter of one claim, a capital; None where it is none or several."""
    plain = re.sub(r"\s+", " ", full_width(claim[:2000]))
    for _ in range(3):
        plain = _STYLE.sub(r"\1", plain)
    plain = _SPACES.sub(" ", plain).strip()
    alone = _ALONE.fullmatch(plain) if len(plain) < 60 else None
    if alone:
        return alone["letter"].upper()
    found = _LEADING.match(plain[:60])  # the letter stands at the beginning
    if not found or re.search(r"(?:^|[\s(（])[A-H]\s*[.)）、:]", plain[found.start("rest") :]):
        return None
    return (found["one"] or found["two"]).upper()


def chosen(said: str, prompt: object = None) -> str | None:
    """The one letter that an answer chooses; None where it chooses none, or more than one."""
    said = full_width(said[-20_000:])
    found = claims(said, prompt)
    letters = [letter_of(claim) for claim in found]
    tagged = _TAGGED.fullmatch(said.strip())
    if tagged:
        return chosen(tagged["inside"], prompt)
    if boxed(said) or "<answer>" in said:
        return _only(letters)
    picked = [
        match["letter"].upper()
        for match in _CHOOSING.finditer(said)
        if not _REJECTED.match(match["after"]) and not _DENIED.search(said[: match.start()])
    ] + [first or second for first, second in _PRAISED.findall(said)]
    stated = [letter for letter in letters if letter is not None]
    if stated and len(stated) == len(letters):
        return _only([*stated, *picked])
    if picked:
        return _only(picked)
    first, *lines = said.strip().splitlines() or [""]
    options = [line for line in lines if letter_of(line) is not None]
    return None if options else letter_of(first)


def _only(letters: list[str | None]) -> str | None:
    distinct = set(letters)
    return distinct.pop() if len(distinct) == 1 else None
