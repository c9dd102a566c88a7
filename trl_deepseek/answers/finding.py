r"""Find the answers that a text commits itself to.

In order: what stands inside ``<answer>``, the last ``\boxed{}``, ``#### 72``, "the answer is 72",
a text that is nothing but the answer, the one number of the last sentence. A text may commit
itself to several; then all of them have to be right.
"""

from __future__ import annotations

import json
import re
from typing import Any

from trl_deepseek.answers.boxes import boxes_in, braced, grouped, said_in
from trl_deepseek.answers.echoes import without_echo
from trl_deepseek.answers.prose import WITHDRAWN, last_sentence, stated, whole

# Where a turn ends, and where another speaker is made to begin.
_END = re.compile(
    r"<[｜|]\s*(?:end▁of▁sentence|eot_id|im_end|im_start|EOT|end|endoftext|end_of_text|User"
    r"|Assistant|begin▁of▁sentence)\s*[｜|]>|</s>|\n[ \t]*(?:User|Human)\s*[:：]"
)
_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_HEDGE = re.compile(
    r"\b(?:alternatively|or maybe|or perhaps|or possibly|otherwise|if not|could also"
    r"|might also|either)\b|要么|或者",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"\b(?:so|thus|hence|therefore|finally|answer|conclude|total|in all|consequently|result"
    r"|overall|gives?|get|wait|actually|final)\b|所以|因此|故|综上|最后|最终|答案|于是|得",
    re.IGNORECASE,
)
_HASHES = re.compile(r"^[ \t]*####[ \t]*(?!#)(.+)$", re.MULTILINE)
_HEADING = re.compile(r"(?:step|solution|case|part|method|approach|answer)\b[^=]*", re.IGNORECASE)
# Right before a box.
_NOT_BOXED = re.compile(
    r"(?:\b(?:not|isn't|isn’t|perhaps|maybe|possibly|might be|could be)|\\ne|\\neq|≠|不是|可能是)"
    r"[\s$*]*$",
    re.IGNORECASE,
)
# What is struck out, or not to be seen.
_UNSEEN = re.compile(r"<!--.*?(?:-->|\Z)|~~[^~\n]+~~|\\[hv]?phantom\s*\{[^{}]*\}", re.DOTALL)
_EQUALS = re.compile(r"[\s$]*(?:=|≈|\\approx)[\s$]*")
_JSON = re.compile(r"\s*(?:```(?:json)?)?\s*(\{\s*\"[^`]*\})\s*(?:```)?\s*", re.IGNORECASE)
_GAP = re.compile(r"(\s)\1{2,}")  # patterns that try every blank would take seconds over thousands
_LONG = 20_000  # characters at the end of a completion in which its answer is looked for


def claims(said: str, prompt: Any = None) -> list[str]:
    """The answers that a text commits itself to; none where it has none or takes it back.

    Args:
        said: What a completion says after its reasoning.
        prompt: What it answers, text or messages: a line of it that shows a box is no answer
            when it is repeated.
    """
    said = braced(_GAP.sub(r"\1\1", _UNSEEN.sub(" ", without_echo(said[-_LONG:], prompt))))
    first, *after = _END.split(said, maxsplit=1)
    found = _of_turn(first)
    rest = _END.sub("\n", after[0]).strip() if after else ""
    if rest:  # nobody reads what follows the end of a turn: whatever hides there has to be right
        found = found and [*found, *(_of_turn(rest) or [rest])]
    return list(dict.fromkeys(claim.strip() for claim in found if claim.strip()))


def turn(said: str) -> str:
    """A text, or nothing where another turn follows its end."""
    _, *after = _END.split(said, maxsplit=1)
    return "" if after and _END.sub("", after[0]).strip() else said


def whole_answer(said: str) -> str:
    """All that a text answers: up to the end of its turn, inside ``<answer>`` where that is all."""
    text = _END.split(turn(said), maxsplit=1)[0].strip()
    tagged = _TAG.fullmatch(text)
    return tagged[1].strip() if tagged else text


def solution_text(solution: object) -> str:
    """The answer that a dataset's solution gives; empty where it gives none.

    That is its last box, what follows its last ``####``, what it says the answer is, or all of it.
    A fragment of an unmarked solution is never the answer.
    """
    if isinstance(solution, bool) or not isinstance(solution, (str, int, float)):
        return ""
    text = braced(str(solution).strip())
    tagged = _TAG.findall(text)
    if tagged:
        text = tagged[-1].strip()
    boxes, _ = boxes_in(text)
    hashes = _HASHES.findall(text)
    if "\\boxed" in text or boxes:
        return said_in(grouped(text, boxes)[-1]) if boxes else ""
    if hashes:
        return str(hashes[-1]).strip()
    said = stated(text)
    return said[-1] if said else text


def _of_turn(said: str) -> list[str]:
    tags = list(_TAG.finditer(said))
    if tags:
        tail = said[tags[-1].end() :]
        if "<answer>" in tail:
            return []  # cut off: nobody knows what it was to be
        inside = [_of_text(tag[1]) or [tag[1]] for tag in tags]
        later = _explicit(tail)
        return [] if WITHDRAWN.search(tail) else [c for found in inside for c in found] + later
    return [] if "<answer>" in said else _of_text(said)


def _of_text(said: str) -> list[str]:
    fenced = _JSON.fullmatch(said)
    if fenced:
        return _of_object(fenced[1])
    if re.search(r"\\(?:boxed|fbox)\s*\{", said):
        boxes, cut = boxes_in(said)
        if cut:
            return []  # a cut box may be a part: 85 begins with 8
        if boxes:
            return _of_boxes(said, boxes)
    return _explicit(said) or whole(said) or last_sentence(said)


def _of_object(text: str) -> list[str]:
    """The answer of a JSON object that has one."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return [str(found[key]) for key in ("answer", "final_answer") if key in found]


def _explicit(said: str) -> list[str]:
    """Boxes, ``####`` and statements."""
    boxes, cut = boxes_in(said)
    if boxes or cut:
        return [] if cut else _of_boxes(said, boxes)
    lines = [m for m in _HASHES.finditer(said) if not _HEADING.fullmatch(m[1].strip(" *"))]
    tail = said[lines[-1].end() :] if lines else ""
    if lines and (re.search(r"\d", lines[-1][1]) or not tail.strip()):
        later = stated(tail) + re.findall(r"####[ \t]*(.+)", tail)
        return later if WITHDRAWN.search(tail) else [match[1] for match in lines] + later
    return stated(said)


def _of_boxes(said: str, boxes: list[tuple[int, int, str]]) -> list[str]:
    runs = grouped(said, boxes)
    last = runs[-1]
    tail = said[last[-1][1] :]
    before = re.split(r"[.!?。！？\n]", said[: last[0][0]])[-1]
    if WITHDRAWN.search(tail) or _NOT_BOXED.search(before):
        return []
    if len(runs) > 1:
        between = said[runs[-2][-1][1] : last[0][0]]
        if _EQUALS.fullmatch(between):
            return [said_in(runs[-2]), said_in(last), *stated(tail)]
        distinct = {said_in(run) for run in runs}
        if len(distinct) > 1 and _HEDGE.search(between):
            return []
        if len(distinct) > 2 and not _CONCLUDES.search(between):
            return []  # a list of what the answer may be
    return [said_in(last), *stated(tail)]
