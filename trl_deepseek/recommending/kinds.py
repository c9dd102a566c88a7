"""Which kind of training rows are for, and under which names their columns would be read.

| kind | rows | trains |
|---|---|---|
| ``pairs`` | a prompt and two completions, one preferred | preference losses, reward models |
| ``labels`` | a completion and whether it is desirable | unpaired preference losses |
| ``tests`` | a prompt and tests that code has to pass | GRPO |
| ``solutions`` | a prompt and an answer that can be compared | GRPO |
| ``verified`` | prompts of a task that brings its verifier | GRPO |
| ``demonstrations`` | conversations, or prompts and completions | SFT |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from trl_deepseek.data import demonstration_rows, preference_rows, rename_columns, rows
from trl_deepseek.errors import DataError
from trl_deepseek.recommending import solutions
from trl_deepseek.registry import Registry
from trl_deepseek.rewards import verifiers

KindName = Literal["pairs", "labels", "tests", "solutions", "verified", "demonstrations"]

# What public datasets call the columns that TRL and the rewards read, the likeliest first.
PROMPT = ("prompt", "question", "problem", "instruction", "query", "text", "input")
SOLUTION = (
    *("solution", "answer", "final_answer", "ground_truth", "expected_answer", "correct_answer"),
    *("answerKey", "gold", "target", "reference", "label"),
)
COMPLETION = ("completion", "response", "output", "answer", "solution")
CHOSEN = ("chosen", "chosen_response", "preferred", "accepted", "response_chosen")
REJECTED = ("rejected", "rejected_response", "dispreferred", "response_rejected")
LABEL = ("label", "is_desirable", "thumbs_up", "liked", "feedback")
CHOICES = ("choices", "options", "endings")
SAMPLE = 200  # rows that are asked whether they can be scored
MOST = 0.9  # share of them that has to be, to call it the kind


@dataclass(frozen=True)
class Kind:
    """What a dataset is.

    Attributes:
        name: See the module's docstring.
        layout: What its layout is called.
        columns: Columns to rename, old to new.
        rewrite: Row to row of TRL's columns; None where they are there.
        reward: For ``tests`` and ``verified``: the reward that reads them.
        solutions: For ``solutions``: how they can be read.
        unreadable: Rows of the sample that cannot be scored, with the reason.
        sampled: How many rows were asked.
    """

    name: KindName
    layout: str
    columns: Mapping[str, str] = field(default_factory=dict)
    rewrite: Any = None
    reward: str | None = None
    solutions: solutions.Solutions | None = None
    unreadable: Mapping[int, str] = field(default_factory=dict)
    sampled: int = 0


def kind_of(dataset: Any, registry: Registry, source: str) -> Kind:
    """The kind of a table.

    Raises:
        DataError: It is of none; says what is missing for each.
    """
    columns = rows.column_names(dataset)
    brought = verifiers.brought_by(dataset, registry) if "prompt" in columns else []
    if brought:
        named = [each.name for each in brought]
        if len(named) == 1:
            return Kind("verified", f"prompts that bring the verifier {named[0]}", reward=named[0])
        layout = f"prompts of several tasks, each with its verifier: {', '.join(named)}"
        return Kind("verified", layout)
    sample = dataset.select(_spread(len(dataset)))
    for look in (_preferences, _tests, _conversations, _solutions, _texts):
        try:
            found = look(sample, columns, registry, source)
        except rows.MALFORMED as error:
            why = f"{type(error).__name__}: {error}"
            raise DataError(f"{source}: the first row is malformed: {why}") from error
        if found is not None:
            return found
    raise _nothing(columns, source)


def _spread(total: int) -> list[int]:
    """Row numbers of a sample from the whole dataset."""
    step = max(total // SAMPLE, 1)
    return list(range(0, total, step))[:SAMPLE]


def _preferences(sample: Any, columns: Sequence[str], _: Registry, source: str) -> Kind | None:
    chosen, rejected = _first(CHOSEN, columns), _first(REJECTED, columns)
    renamed: dict[str, str] = {}
    if chosen and rejected:
        renamed = {chosen: "chosen", rejected: "rejected"}
    elif (label := _first(LABEL, columns)) and (said := _first(COMPLETION, columns)):
        prompt = _first(PROMPT, columns)
        if not prompt or not _is_label(sample[label]):
            return None
        renamed = {prompt: "prompt", said: "completion", label: "label"}
    else:
        return None
    renamed = {old: new for old, new in renamed.items() if old != new}
    table = rename_columns(sample, renamed, source)
    names = rows.column_names(table)
    layout = preference_rows.recognise(names, table[0], source)
    if layout.kind == "tokens":
        return None
    name: KindName = "labels" if layout.kind == "singles" else "pairs"
    return Kind(name, layout.name, renamed, layout.rewrite)


def _is_label(values: Sequence[Any]) -> bool:
    return all(value in (True, False) for value in values)


def _tests(sample: Any, columns: Sequence[str], registry: Registry, source: str) -> Kind | None:
    prompt = _first(PROMPT, columns)
    for name, reward in registry.rewards.items():
        if not reward.runs_code or reward.check_row is None or reward.check_row({}) is None:
            continue
        faults = {
            number: fault
            for number, row in enumerate(sample)
            if (fault := reward.check_row(row)) is not None
        }
        if prompt is None or len(faults) > (1 - MOST) * len(sample):
            continue
        renamed = {} if prompt == "prompt" else {prompt: "prompt"}
        words = "prompts with tests"
        return Kind("tests", words, renamed, reward=name, unreadable=faults, sampled=len(sample))
    return None


def _conversations(sample: Any, columns: Sequence[str], _: Registry, source: str) -> Kind | None:
    try:
        layout = demonstration_rows.recognise(columns, sample[0], has_template=True)
    except DataError:
        return None
    if layout.kind != "conversations" and layout.columns == ("text",):
        return None  # plain text comes last: the question of many datasets is called so
    return Kind("demonstrations", layout.name, {}, layout.rewrite)


def _solutions(sample: Any, columns: Sequence[str], _: Registry, source: str) -> Kind | None:
    prompt = _first(PROMPT, columns)
    if prompt is None:
        return None
    found: dict[str, solutions.Solutions] = {}
    for solution in SOLUTION:
        if solution in columns and solution != prompt:
            read = solutions.read(sample[solution])
            if len(read.unreadable) <= (1 - MOST) * len(sample):
                found[solution] = read
    if not found:
        return None
    # A few words may be anything; what is read as a number or a formula is an answer.
    solution = min(found, key=lambda name: found[name].form == "words")
    read = found[solution]
    counted = [name for name in CHOICES if name in columns]
    if counted and read.form == "numbers":
        raise DataError(
            f"{source}: {solution!r} counts {counted[0]!r}, from 0 or from 1: nobody can know\n"
            "  write the letter of the right choice instead, and the choices into the prompt"
        )
    renamed = {prompt: "prompt", solution: "solution"}
    if solution != "solution" and "solution" in columns:
        renamed["solution"] = "worked_solution"
    return Kind(
        *("solutions", f"prompts with {read.form}"),
        {old: new for old, new in renamed.items() if old != new},
        solutions=read,
        unreadable=read.unreadable,
        sampled=len(sample),
    )


def _texts(sample: Any, columns: Sequence[str], _: Registry, source: str) -> Kind | None:
    """Questions and answers under other names, and plain text."""
    prompt = _first([name for name in PROMPT if name not in ("text", "input")], columns)
    said = _first([name for name in COMPLETION if name != prompt], columns)
    if prompt and said and all(isinstance(sample[0][name], (str, list)) for name in (prompt, said)):
        renamed = {prompt: "prompt", said: "completion"}
        renamed = {old: new for old, new in renamed.items() if old != new}
        names = [renamed.get(name, name) for name in columns]
        row = {renamed.get(name, name): value for name, value in sample[0].items()}
        layout = demonstration_rows.recognise(names, row)
        return Kind("demonstrations", layout.name, renamed, layout.rewrite)
    if "text" in columns and isinstance(sample[0]["text"], str):
        return Kind("demonstrations", "text (text)")
    return None


def _first(names: Sequence[str], columns: Sequence[str]) -> str | None:
    return next((name for name in names if name in columns), None)


def _nothing(columns: Sequence[str], source: str) -> DataError:
    prompt = _first(PROMPT, columns)
    lines = [f"{source}: no training is known for the columns {', '.join(columns)}"]
    if prompt is None:
        lines.append(f"  a prompt is missing: a column {', '.join(PROMPT[:5])} or messages")
    else:
        lines.append(f"  {prompt!r} is the prompt; what is missing is one of")
    lines += [
        "  for SFT: messages, or a column completion, response or output",
        "  for preferences: chosen and rejected; or completion and label (true or false)",
        "  for GRPO: solution or answer that is a number, a formula, a letter or a few words; or "
        "tests for code",
    ]
    if prompt is not None:
        lines.append(
            "  prompts alone train with a judge: `trl-deepseek grpo --reward_funcs llm_judge`, or "
            "model:FOLDER, a reward model"
        )
    return DataError("\n".join(lines))


def texts_of(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Part and value of what a row of TRL's columns asks and says, as text or turns."""
    for part in ("prompt", "completion", "chosen", "rejected", "messages", "text"):
        if row.get(part) is not None:
            yield part, row[part]
