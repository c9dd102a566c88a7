"""Find the answers that prose commits itself to.

"The answer is 72", a text that is nothing but the answer, the one number of the last sentence; not
what is asked, denied, doubted, supposed, taken back or somebody else's.
"""

from __future__ import annotations

import re

from trl_deepseek.answers.notation import normalise
from trl_deepseek.answers.quantities import read_quantity

WITHDRAWN = re.compile(
    r"\b(?:wait|actually|scratch that|on second thought|correction|sorry|my mistake|hold on"
    r"|let me (?:re|correct|fix)|I (?:was|am) wrong|no, "
    r"|(?:that|this|it|which)(?:'s|’s| is| was| has been)(?: clearly| obviously)?"
    r" (?:wrong|incorrect|not (?:right|correct|the answer)|a mistake)"
    r"|isn't right)|(?<![A-Za-z])不对|等等|错了|更正|(?<!is )(?<![\w])no[,.]",
    re.IGNORECASE,
)
_NOISE = r"[\s*_:：]*"
_STATED = re.compile(
    r"(?:\bans(?:wer)?\b(?:\*\*|\s+(?:to|for|of)\s[^.:：\n=]{1,60}?)?"
    r"(?P<verb>\s*(?:\*\*)?\s*(?:[:：=]|\s[-–—]\s|\s(?:is|was|are|equals"
    r"|should be|must be|would be|will be|comes out to|has to be)\b"
    r"(?:\s+(?:therefore|thus|hence|then|simply|just|indeed|clearly)\b)?)"
    r"|\s*\*\*\s*\n|(?<=final answer)\s*\n|(?<=# answer)\s*\n)"
    r"|(?:答案|结果)(?:\*\*)?\s*(?:应该|应|就|必须)?\s*(?:[:：=]|是|为|等于|选)|(?:^|\n)\s*答\s*[:：]|【答案】"
    r"|(?:故选|应选|故填)\s*[:：]?)"
    rf"{_NOISE}",
    re.IGNORECASE,
)
# Where a statement ends: a stop before white space, a reason, an aside.
_STOP = re.compile(
    r"[.!。！\n](?=\s|$|\*)|[。！]|\n|\?|？|,?\s+(?:because|since|as|which|where|but|so|not|hence"
    r"|when|for|if|instead of|rather than)\s"
    r"|,?\s+i\.e\.|\s\((?:not|i\.e\.|since|because|as|which)\s"
    r"|，(?:因为|所以|而|不)|因为|;\s|；",
    re.IGNORECASE,
)
_MATHS = re.compile(
    r"\$\$.*?\$\$|(?<!\\)\$[^$\n]*\$(?!\d)|\\\(.*?\\\)|(?<!\\)\\\[.*?\\\]", re.DOTALL
)
_WHOLE_MATHS = re.compile(
    r"\s*(?:\*\*)?(?:\$\$(?P<a>[^$]*)\$\$|\$(?P<b>[^$]*)\$|\\\((?P<c>.*)\\\)|\\\[(?P<d>.*)\\\])"
    r"(?:\*\*)?[\s.。]*",
    re.DOTALL,
)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z][A-Za-z'’-]+")
_AMOUNT = r"\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?(?:\s?/\s?\d+)?"
_TOKEN = re.compile(
    rf"(?:{_MATHS.pattern})|\*\*[^*\n]+\*\*"
    rf"|(?<![A-Za-z0-9_.])[-+−]?[$€£¥]?(?:[-+−]|\d+\s)?{_AMOUNT}\s?(?:%|percent)?(?![A-Za-z_\d])",
    re.DOTALL,
)
_LEADS = re.compile(
    r"(?:[=:：]|\b(?:is|are|equals|be|to|so|get|total(?:s|ing)?)|得|是|为|共|有|了|要|剩下?|到|\b(?:has|have|had|costs?|needs?|takes?|leaving|leaves))"
    r"\s*(?:\*\*|about|exactly|only|just|\s)*$",
    re.IGNORECASE,
)
_HEADING = re.compile(r"[A-Za-z][A-Za-z ]*[:：]")
_ASIDE = re.compile(
    r",?\s+(?:attained|achieved|when|where|which|since|because|if)\s", re.IGNORECASE
)
_DENIED = re.compile(
    r"\b(?:not|never|cannot|can't|isn't|aren't|wrong|incorrect|neither|nor|don't|doesn't|unless"
    r"|if|than|step|option|question|except)\b|不(?!同)|没|非|\?|？|错",
    re.IGNORECASE,
)
# Before a statement, in its sentence: somebody else's, a supposition, a doubt.
_UNCERTAIN = re.compile(
    r"\b(?:(?:don't|don’t|do not|doesn't|does not|cannot|can't|never) (?:think|believe|say|know)"
    r"|doubt|whether|suppos(?:e|ing)|assum(?:e|ing)|imagine|pretend|some (?:say|think|people)"
    r"|nobody|no one|might|perhaps|maybe|possibly|(?:impossible|unlikely|false|not true) that"
    r"|says|claims|thinks|believes|guesses|reckons|insists|(?:thought|believed|guessed|claimed)"
    r"|(?<!\bI )said|according to (?:(?:my|his|her|their|the (?:text)?book|some|one)"
    r"|(?-i:[A-Z][a-z]+)(?=,)))\b|假设|也许|可能|不知道"
    r"|(?<![我就话来])(?:说(?!明)|声称)|(?<![我们])(?:认为|觉得)",
    re.IGNORECASE,
)
# After it, in its sentence.
_DOUBTED = re.compile(
    r"\bI doubt|\bdoubtful|\bunlikely|(?:don't|don’t|do not) (?:think|believe)|\?\s*$",
    re.IGNORECASE,
)
# The labels of parts that are answered one by one.
_PART = re.compile(
    r"(?:(?<=[.;,\n])|^)[\s*]*(?:(?:part|question|problem|answer)\s*\(?[a-e1-9]\)?"
    r"|(?:first|second|third|last)\s(?:part|question|problem|answer)|第[一二三四]问)[\s*]*[:：=]",
    re.IGNORECASE,
)


def stated(said: str) -> list[str]:
    """What follows each "the answer is" that is neither taken back, denied nor asked."""
    found: list[tuple[int, str]] = []
    statements = list(_STATED.finditer(said))
    ends = [later.start() for later in statements[1:]] + [len(said)] * bool(statements)
    for match, end in zip(statements, ends, strict=True):
        text = said[match.end() : min(end, match.end() + 400)]
        claim = _sentence(text)
        if end < len(said):  # the answer to (a) is 40, and the answer to (b) is 41
            claim = re.sub(r",?\s*(?:and|while|but|,)?(?:\s+the|\s+my)?(?:\s+final)?$", "", claim)
            if re.fullmatch(r"(?:the|my|our|so|correct|final|\W)*", claim, re.IGNORECASE):
                continue  # Final answer: the final answer is 41
        claim = re.sub(r"^(?:一共|总共|共)?(?:有|是|为)?(?=\s*\d)", "", claim)
        before = re.split(r"[.!?。！？\n]|\bbut\b|但", said[: match.start()])[-1]
        rest = re.split(r"[.!。！\n](?:\s|$)", text)[0]
        wrong = (
            re.search(r"\b(?:wrong|incorrect|false)\s+$", before)
            or _UNCERTAIN.search(before)
            or _DOUBTED.search(rest)
            or ("would" in match[0] and re.search(r"\b(?:if|unless|had)\b", rest))
        )
        if (
            claim
            and not wrong
            and not re.match(r"(?:not|never|unknown|wrong|unclear|不)\b", claim, re.I)
        ):
            if not _is_bare(claim) and len(claim.split()) < 20:
                led = "答" not in match[0][:3]
                (claim,) = last_sentence(claim, led) or [claim]
            found.append((match.end(), claim))
    withdrawn = [match.end() for match in WITHDRAWN.finditer(said)] if found else []
    kept = [claim for place, claim in found if not withdrawn or place > withdrawn[-1]]
    return list(dict.fromkeys(kept))


def _sentence(text: str) -> str:
    """The text up to where its statement ends; formulas are not looked into."""
    place = 0
    while stop := _STOP.search(text, place):
        inside = [m for m in _MATHS.finditer(text) if m.start() < stop.start() < m.end()]
        if not inside:
            return "" if stop[0] in "?？" else text[: stop.start()].strip(" *_\t")
        place = inside[-1].end()
    return text.strip(" *_\t\n")


def whole(said: str) -> list[str]:
    """All of the text, where it is nothing but an answer."""
    text = said.strip().strip("*`").strip()
    maths = _WHOLE_MATHS.fullmatch(text)
    if maths:
        return [next(filter(None, maths.groups()), "")]
    lines = [line.strip().strip("*").strip() for line in text.splitlines() if line.strip()]
    if not lines or len(text) > 400:
        return []
    if len(lines) > 1 and _HEADING.fullmatch(lines[0]) and not _DENIED.search(lines[0]):
        lines = lines[1:]  # Total: 42
    if all(_is_bare(line) for line in lines):
        return [", ".join(dict.fromkeys(lines))]  # 4, 5 and 6 on lines of their own are a list
    return []


def _is_bare(line: str) -> bool:
    """Whether a line has no sentence around the answer: 5 apples, x = 5, Paris."""
    bare = _MATHS.sub("0", line)
    words = _WORD.findall(re.sub(r"\\[A-Za-z]+|\{[^{}]*\}", " ", bare))
    begins = re.match(r"[A-Za-z]\s*(?:\([a-z]\))?\s*[=<>]|[-+−(\[{\\.$€£¥\d√πÃ]", bare)
    if not re.search(r"\d|[=<>^\\]", bare):  # words alone
        if re.search(r"\b(?:is|are|was|were)\b", bare):
            return False
        return len(words) <= 4 and not re.search(r"[\u4e00-\u9fff]{5}|[.!?。]\s", line)
    if "=" in bare and any(word.lower() not in ("and", "or") for word in words):
        return False  # the area = 5
    if re.search(r"\d\s*[.)]\s+\S|\b(?:is|are|was|were|equals|be|to)\b", bare):
        return False  # an item of a list, or a sentence
    return bool(begins or not words) and len(words) <= 4 and not re.match(r"[\u4e00-\u9fff]", bare)


def last_sentence(said: str, led: bool = False) -> list[str]:
    """The only number or formula of the last sentence, or the one that it leads up to.

    Args:
        said: The text.
        led: Whether only the latter counts.
    """
    lines = [line.strip() for line in said.strip()[-2000:].splitlines() if line.strip()]
    if not lines:
        return []
    line = lines[-1]
    earlier = lines[-2] if len(lines) > 1 else ""
    if len(_PART.findall(said)) > 1:
        return []
    if _is_bare(line) and re.search(r"\d|\\", line):
        return [] if _is_bare(earlier) and "=" not in earlier and earlier else [line]
    sentence = re.split(r"(?<=[.!?])\s+(?=[A-Z$\\*])|(?<=[。！？])(?=.)", line)[-1]
    equations = re.sub(r"^(?:thus|so|hence|therefore|then)[,:]?\s+", "", sentence, flags=re.I)
    if re.match(r"\$?[A-Za-z]\s*=", equations) and _is_bare(equations):
        return [equations]
    whole = sentence
    main = _ASIDE.split(sentence)[0]
    if any(_LEADS.search(main[: token.start()]) for token in _TOKEN.finditer(main)):
        sentence = main  # the maximum is 9, attained at x = 2
    for withdrawn in list(WITHDRAWN.finditer(sentence))[-1:]:  # 15 -- wait, 16
        sentence = sentence[withdrawn.end() :]
    unreal = re.search(r"\bwould\b.*\b(?:if|had|unless)\b", whole)
    unsure = unreal or _DENIED.search(sentence) or _UNCERTAIN.search(sentence)
    if unsure or len(sentence) > 300:
        return []
    tokens = list(_TOKEN.finditer(sentence))
    if not tokens:
        return []
    last = tokens[-1]
    after = sentence[last.end() :].strip(" .。!")
    alone = not led and len(tokens) == 1 and not re.search(r"\d", sentence[: last.start()] + after)
    leads = _LEADS.search(sentence[: last.start()]) and len(after.split()) <= 3
    if not alone and not leads:
        return []
    number = last[0].strip("* ").rstrip(".")
    measured = f"{number} {after}"  # 5 kg is not 5 g
    return [measured if read_quantity(normalise(measured)) else number]
