"""Rows for training of what was drawn, and the file that they are written to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl_deepseek import chat
from trl_deepseek.chat import reasoning
from trl_deepseek.chat.control_tokens import literal, pattern_of
from trl_deepseek.chat.faults import Inspector
from trl_deepseek.errors import TemplateError
from trl_deepseek.rollouts import statistics
from trl_deepseek.rollouts.drawing import as_completion
from trl_deepseek.rollouts.drawn import Drawn, Selection


@dataclass
class Rows:
    """What a selection made of all prompts.

    Attributes:
        rows: To be written.
        passed_over: Completions and prompts that did not become rows, by why.
        without: Prompts of which there is no row.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    without: int = 0


def select(
    selection: Selection,
    dataset: Iterable[Mapping[str, Any]],
    drawn: Mapping[int, Drawn],
    tokenizer: Any,
    provenance: Mapping[str, Any],
) -> Rows:
    """The rows of all prompts, in their order.

    Args:
        selection: What becomes a row.
        dataset: Whose rows the prompts are.
        drawn: By the number of the row.
        tokenizer: With the template that trains, where one is registered.
        provenance: What all rows say of how they were drawn.
    """
    made = Rows()
    control_tokens = pattern_of(tokenizer) if chat.installed(tokenizer) is not None else None
    inspector = Inspector(tokenizer, control_tokens)

    def fault(row: Mapping[str, Any]) -> str | None:
        """What training would refuse a row for."""
        if control_tokens is not None and literal(row, control_tokens) is not None:
            return "with a control token in the text"
        try:
            found = next(inspector.faults(row), None)
        except TemplateError as error:
            return str(error).partition("\n")[0]
        return None if found is None else found.what.partition(":")[0]

    for number, row in enumerate(dataset):
        opening, prompt = _opening(tokenizer, row), row["prompt"]

        def said(text: str, opening: str = opening, prompt: Any = prompt) -> Any:
            return as_completion(opening + text, prompt)

        rows = selection.rows(drawn[number], row, said, provenance, fault, made.passed_over)
        made.without += not rows
        made.rows += rows
    return made


def _opening(tokenizer: Any, row: Mapping[str, Any]) -> str:
    """The ``<think>`` that a prompt ended with: a row for training has the reasoning whole."""
    if isinstance(row["prompt"], str):
        return ""
    given = {k: v for k, v in (row.get("chat_template_kwargs") or {}).items() if v is not None}
    with chat.inference_template(tokenizer):
        prefix = chat.generation_prefix(tokenizer, **given)
    return prefix if reasoning.opens_thinking(prefix) else ""


def write(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write rows into a file, as JSON Lines or, where ``file`` ends so, as Parquet."""
    if file.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), file, compression="zstd")
        return
    with file.open("w", encoding="utf-8", errors="surrogatepass") as stream:
        stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def scores_of(name: str, drawn: Iterable[Drawn]) -> dict[str, Any]:
    """One reward over all completions: its mean, and how many it scored, left out and failed on."""
    everything = list(drawn)
    scores = [score for each in everything for score in each.scores[name]]
    known = [score for score in scores if score is not None]
    failed = sum(len(each.failed.get(name, ())) for each in everything)
    return {
        "name": name,
        "mean": statistics.mean(known),
        "scored": len(known),
        "abstained": len(scores) - len(known) - failed,
        "failed": failed,
    }
