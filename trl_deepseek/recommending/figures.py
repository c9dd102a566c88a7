"""What the rows of a dataset look like: how many, how long, in which languages, with reasoning."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from trl_deepseek.chat.reasoning import CLOSE, KEYS
from trl_deepseek.data import rename_columns, repeats, rows
from trl_deepseek.recommending.kinds import Kind, texts_of

LOOKED_AT = 20_000  # rows of which lengths and the like are taken; the report says so
# What languages are told apart by py3langid: those of large datasets, so that a short text is not
# taken for a language of few speakers.
LANGUAGES = (
    *("ar", "bn", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hu", "id"),
    *("it", "ja", "ko", "nl", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "ur", "vi", "zh"),
)
ASKED = 300  # texts whose language is looked at
ENOUGH = 12  # letters without which a text has no language
SURE = 0.8  # probability from which a language is believed
_NO_LANGUAGE = re.compile(r"```.*?```|\$[^$]*\$|\\[A-Za-z]+|https?://\S+", re.DOTALL)


@dataclass(frozen=True)
class Lengths:
    """Of one part of the rows, in characters or tokens."""

    median: int
    longest: int

    @classmethod
    def of(cls, sizes: Sequence[int]) -> Lengths:
        """Of at least one text."""
        return cls(round(median(sizes)), max(sizes))


@dataclass(frozen=True)
class Figures:
    """What was counted.

    Attributes:
        rows: All rows.
        looked_at: The first rows, of which all but ``rows`` and ``repeated`` is said.
        columns: Their names, as they are in the data.
        repeated: Rows that say what an earlier row says.
        characters: Part to lengths: ``prompt``, ``answer``.
        tokens: Likewise, and ``row``, both together; None without a tokenizer.
        reasoning: Share of the answers that reason.
        several_turns: Share of the rows in which the assistant speaks more than once.
        tools: Share of the rows with tools or tool calls.
        languages: Language to its share of the texts that have one.
        desirable: Of labelled rows, the share that is; None without labels.
    """

    rows: int
    looked_at: int
    columns: tuple[str, ...]
    repeated: int
    characters: Mapping[str, Lengths]
    tokens: Mapping[str, Lengths] | None
    reasoning: float
    several_turns: float
    tools: float
    languages: Mapping[str, float]
    desirable: float | None


@dataclass(frozen=True)
class _Row:
    prompt: str
    answers: tuple[str, ...]
    reasons: bool
    turns: int
    tools: bool


def figures_of(
    dataset: Any,
    kind: Kind,
    source: str,
    tokenizer: Any = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Figures:
    """Count.

    Args:
        dataset: A table.
        kind: What it is.
        source: Its name, for messages.
        tokenizer: With which to count tokens; None for none.
        progress: Put around the rows that are read.

    Raises:
        DataError: A row is malformed.
    """
    named = rename_columns(dataset, kind.columns, source)
    first = named.select(range(min(len(named), LOOKED_AT)))
    convert = rows.numbered(lambda row: _read(kind, row), source, kind.layout)
    read: list[Any] = [convert(row, number) for number, row in enumerate(progress(first))]
    count = len(read)
    parts = {
        "prompt": [row.prompt for row in read if row.prompt],
        "answer": [answer for row in read for answer in row.answers],
    }
    parts = {part: texts for part, texts in parts.items() if texts}
    answers = len(parts.get("answer", ()))
    tokens = None
    if tokenizer is not None:
        ids = getattr(tokenizer, "tokenizer", tokenizer)
        sizes = {part: _sizes(ids, texts) for part, texts in parts.items()}
        whole = [row.prompt + max(row.answers, key=len, default="") for row in read]
        sizes["row"] = _sizes(ids, whole)
        tokens = {part: Lengths.of(found) for part, found in sizes.items()}
    desirable = None
    if kind.name == "labels":
        labels = first["label"]
        desirable = sum(map(bool, labels)) / len(labels)
    return Figures(
        rows=len(dataset),
        looked_at=count,
        columns=tuple(dataset.column_names),
        repeated=len(repeats.repeated(named)),
        characters={
            part: Lengths.of([len(text) for text in texts]) for part, texts in parts.items()
        },
        tokens=tokens,
        reasoning=sum(row.reasons for row in read) / count if answers else 0.0,
        several_turns=sum(row.turns > 1 for row in read) / count,
        tools=sum(row.tools for row in read) / count,
        languages=languages_of([text for texts in parts.values() for text in texts]),
        desirable=desirable,
    )


def _read(kind: Kind, row: Mapping[str, Any]) -> Any:
    row = kind.rewrite(row) if kind.rewrite else row
    prompt, answers, reasons, turns = "", list[str](), False, 0
    tools = bool(row.get("tools"))
    for part, value in texts_of(row):
        if isinstance(value, str):
            if part == "prompt":
                prompt = value
            else:
                answers.append(value)
                reasons = reasons or CLOSE in value
            continue
        said = [turn for turn in value if turn.get("role") == "assistant"]
        tools = tools or any(turn.get("tool_calls") for turn in value)
        reasons = reasons or any(_reasons(turn) for turn in said)
        if part == "prompt" or part == "messages":
            prompt = "\n".join(_content(turn) for turn in value if turn not in said)
        if part != "prompt":
            answers += [_content(turn) for turn in said]
            turns = max(turns, len(said))
    return _Row(prompt, tuple(answers), reasons, turns, tools)


def _sizes(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Tokens of each text."""
    return [len(found) for found in tokenizer(list(texts))["input_ids"]]


def _reasons(turn: Mapping[str, Any]) -> bool:
    return any(turn.get(key) for key in KEYS) or CLOSE in _content(turn)


def _content(turn: Mapping[str, Any]) -> str:
    content = turn.get("content") or ""
    reasoning = next((turn[key] for key in KEYS if turn.get(key)), "")
    if not isinstance(content, str):
        content = "".join(part.get("text") or "" for part in content)
    return f"{reasoning}{content}"


def languages_of(texts: Sequence[str]) -> dict[str, float]:
    """Language to share, the commonest first, of texts that are long enough to have one."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(LANGUAGES))
    step = max(len(texts) // ASKED, 1)
    found: Counter[str] = Counter()
    for text in texts[::step][:ASKED]:
        plain = _NO_LANGUAGE.sub(" ", text[:2000])
        wide = sum(ord(letter) > 0x2E80 for letter in plain)  # one of these is a word
        if sum(map(str.isalpha, plain)) + 2 * wide < ENOUGH:
            continue
        language, probability = identifier.classify(plain)
        if probability >= SURE:
            found[language] += 1
    total = sum(found.values())
    return {
        language: count / total for language, count in found.most_common() if count / total > 0.02
    }
