"""A reward for reasoning in one language.

Languages are told apart by their script, which is what mixes in practice (Chinese and English);
two languages in one script are one to it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from trl_deepseek import hookimpl
from trl_deepseek.chat.reasoning import Completion, split, text
from trl_deepseek.types import Register

# The scripts a language is written in, as the first words of Unicode's character names.
SCRIPTS: dict[str, tuple[str, ...]] = {
    "ar": ("ARABIC",),
    "de": ("LATIN",),
    "el": ("GREEK",),
    "en": ("LATIN",),
    "es": ("LATIN",),
    "fr": ("LATIN",),
    "he": ("HEBREW",),
    "hi": ("DEVANAGARI",),
    "it": ("LATIN",),
    "ja": ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
    "ko": ("HANGUL",),
    "pt": ("LATIN",),
    "ru": ("CYRILLIC",),
    "th": ("THAI",),
    "uk": ("CYRILLIC",),
    "vi": ("LATIN",),
    "zh": ("CJK",),
}
# One character each is a word, as in the default word boundaries of Unicode (UAX #29).
ONE_BY_ONE = ("CJK", "HIRAGANA")

# What belongs to no language: code, formulas, LaTeX commands, tags, addresses. Formulas have a
# longest length, or a completion made of opening brackets would take for ever.
_NEUTRAL = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]{0,1000}`|\$\$.{0,1000}?\$\$|\$[^$\n]{0,1000}\$"
    r"|\\\[.{0,1000}?\\\]|\\\(.{0,1000}?\\\)|\\[A-Za-z]+|</?\w+>|https?://\S+"
    r"|(?<![A-Za-z0-9_])[A-Za-z]*[0-9_][A-Za-z0-9_]*",  # x1, snake_case
    re.DOTALL,
)
_RUN = re.compile(r"\w+(?:['’]\w+)*")
_FUNCTIONS = {
    *("sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh"),
    *("tanh", "log", "ln", "lg", "exp", "lim", "max", "min", "sup", "inf", "mod", "gcd", "lcm"),
}
_LABEL = 4  # triangle ABC, quadrilateral ABCD, GPU: short and in capitals


@hookimpl
def register_rewards(register: Register) -> None:
    register("language_consistency", language_consistency, samplewise=True)


def language_consistency(
    completions: Sequence[Completion],
    generation_prefix: str | None = None,
    language: str | Sequence[str] = "en",
    **_: object,
) -> list[float | None]:
    """The share of the reasoning's words that are in the target language, 0.0 to 1.0.

    A word is a run of letters, or one Chinese character. Numbers, code, formulas, single letters,
    short labels in capitals (ABC) and names of functions (sin) belong to no language and are not
    counted. Where the completion does not reason, all of its text is looked at. Abstains where
    there is no word to judge by.

    Range: 0.0 to 1.0.

    Source: the language consistency reward of arXiv:2501.12948, section 2.3.2 ("the proportion of
    target language words in the CoT").

    Args:
        completions: TRL's.
        generation_prefix: What the prompt has opened.
        language: Target, as in ISO 639-1; one for all, or (a dataset column) one for each.

    Raises:
        ValueError: A language is not one of ``SCRIPTS``.
    """
    count = len(completions)
    languages = [language] * count if isinstance(language, str) else language
    scores: list[float | None] = []
    for completion, target in zip(completions, languages, strict=True):
        scripts = SCRIPTS.get(target)
        if scripts is None:
            raise ValueError(f"no language {target!r}; known: {', '.join(SCRIPTS)}")
        reasoning = split(completion, generation_prefix).reasoning
        words = _words(text(completion, generation_prefix) if reasoning is None else reasoning)
        share = sum(word in scripts for word in words) / len(words) if words else None
        scores.append(share)
    return scores


def _words(said: str) -> list[str]:
    """The script of each word, in order."""
    said = _NEUTRAL.sub(" ", unicodedata.normalize("NFKC", said))
    return [script for run in _RUN.findall(said) for script in _scripts(run)]


def _scripts(run: str) -> list[str]:
    """The scripts of the words in one run of letters: a Chinese run is many, an English run one."""
    found: list[str] = []
    letters = ""
    previous = ""
    for character in [*run, ""]:
        script = _script(character) if character else ""
        if letters and (script != previous or script in ONE_BY_ONE):
            found += [previous] if _is_word(letters, previous) else []
            letters = ""
        if script:
            letters += character
            previous = script
    return found


def _is_word(letters: str, script: str) -> bool:
    if script != "LATIN":
        return True
    label = letters.isupper() and len(letters) <= _LABEL
    return len(letters) > 1 and not label and letters.lower() not in _FUNCTIONS


def _script(character: str) -> str:
    """The script of a letter, or nothing for what is no letter."""
    if not character.isalpha():
        return ""
    return unicodedata.name(character, "").partition(" ")[0]
