"""Tell which sample a reward failed on, and keep the batch so that it can be tried again."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trl_deepseek import secrets
from trl_deepseek.workers.calls import Failure, Outcome

FOLDER = "reward_failures"
SHOWN = 200  # characters of a prompt or completion in a message


def save(
    output_dir: str,
    name: str,
    step: int | None,
    arguments: Mapping[str, Any],
    outcomes: Sequence[Outcome],
) -> Path:
    """Write one JSON line per sample, the failed ones first; return the file.

    A line has ``prompt``, ``completion``, the dataset's columns, ``score`` and ``failure``, so that
    ``trl-deepseek rewards test --data FILE`` reads it.
    """
    count = len(outcomes)
    columns = {
        key: value
        for key, value in arguments.items()
        if isinstance(value, list) and len(value) == count
    }
    rows = []
    for i, outcome in enumerate(outcomes):
        row = {key: values[i] for key, values in columns.items()}
        row["prompt"] = row.pop("prompts", None)
        row["completion"] = row.pop("completions", None)
        failed = isinstance(outcome, Failure)
        row["score"] = None if failed else outcome
        row["failure"] = vars(outcome) if isinstance(outcome, Failure) else None
        rows.append(row)
    rows.sort(key=lambda row: row["failure"] is None)
    folder = Path(output_dir, FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False, default=repr) + "\n" for row in rows)
    # Several ranks may fail at one step, each on its own part of the batch.
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(secrets.redacted(text))
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
    rank = os.environ.get("RANK")
    place = folder / f"step-{step or 0:06d}-{safe}{f'-rank{rank}' if rank else ''}.jsonl"
    Path(temporary).replace(place)
    return place


def message(
    reward: str,
    step: int | None,
    arguments: Mapping[str, Any],
    outcomes: Sequence[Outcome],
    place: Path,
    calls_in_a_row: int | None,
) -> str:
    """What went wrong, on which sample, and what to do."""
    failed = [(i, outcome) for i, outcome in enumerate(outcomes) if isinstance(outcome, Failure)]
    index, first = failed[0]
    at = "" if step is None else f" at step {step}"
    if calls_in_a_row is not None:
        head = f"{reward} failed on every completion of {calls_in_a_row} calls in a row{at}"
        way_out = "it is broken; a reward that should not count here returns None"
    else:
        head = f"{reward} failed on {len(failed)} of {len(outcomes)} completions{at}"
        way_out = "to train on without such scores: reward_on_error abstain, or a number instead"
    lines = [
        f"{head}: {first.message}",
        f"  sample {index}, prompt: {_short(arguments['prompts'][index])}",
        f"  completion: {_short(arguments['completions'][index])}",
        f"  the batch is kept in {place}",
        f"  {way_out}",
        *(f"    {line}" for line in first.detail.rstrip().splitlines()),
    ]
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
