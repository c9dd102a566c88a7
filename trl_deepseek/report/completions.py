"""Which of a run's saved completions the page holds, and what the others come to.

Of all it counts; of 50,000 it holds the best, the worst, those that a reward gave no score, and a
sample of each step, as many as fit. The texts of the rest stay in their Parquet files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trl_deepseek.rewards import failures
from trl_deepseek.rollouts import history

BEST, WORST, UNSCORED, SAMPLE = "best", "worst", "unscored", "sample"
KINDS = (BEST, WORST, UNSCORED, SAMPLE)
ENDS = 100  # of the best, of the worst
MOST_UNSCORED = 200
OF_A_STEP = 8  # at most
SAMPLED = 2000  # of all steps, about
TEXT = 4000  # characters of a text; each says what was cut
COLUMNS = 600  # characters of the dataset's other columns
PROMPTS = 100  # that never vary
FILES, LINES = 50, 1000  # of failures that are looked at
SEED = 0


@dataclass(frozen=True)
class Kept:
    """What the page holds of a run's completions.

    Attributes:
        folder: Where all of them are.
        total: How many there are.
        rewards: Names.
        rows: Those that are held, in their order; see :func:`_row`.
        prompts: Their prompts, which the rows name by number.
        counts: How many were chosen for what.
        groups: Groups of two and more completions in training.
        alike: Of them, those whose rewards are all equal.
        never: Prompts of which every group was alike: text, groups, mean reward.
        never_total: How many such prompts there are.
        prompts_total: Prompts with such groups.
    """

    folder: Path
    total: int
    rewards: list[str]
    rows: list[dict[str, Any]]
    prompts: list[str]
    counts: Mapping[str, int]
    groups: int
    alike: int
    never: list[dict[str, Any]]
    never_total: int
    prompts_total: int


def choose(folder: Path, budget: int) -> Kept | None:
    """What to hold of the completions in a run's folder; None where there are none.

    Args:
        folder: Of the run.
        budget: Characters of JSON that the rows may take, about.
    """
    files = [file for file in history.files(folder) if history.is_readable(file)]
    if not files:
        return None
    table = _Numbers(files)
    chosen = _chosen(table)
    rows, prompts = _texts(table, chosen)
    while len(json.dumps([rows, prompts])) > budget and rows:
        # the samples first, every other; then, of a very long text each, all
        samples = [i for i, why in chosen.items() if why == [SAMPLE]]
        dropped = samples[::2] if len(samples) > 1 else list(chosen)[::2]
        chosen = {i: why for i, why in chosen.items() if i not in set(dropped)}
        rows, prompts = _texts(table, chosen)
    groups, alike, never, prompts_total = _never_varied(table)
    counts = {kind: sum(kind in why for why in chosen.values()) for kind in KINDS}
    return Kept(
        folder=files[0].parent,
        total=table.count,
        rewards=table.rewards,
        rows=rows,
        prompts=prompts,
        counts=counts,
        groups=groups,
        alike=alike,
        never=never[:PROMPTS],
        never_total=len(never),
        prompts_total=prompts_total,
    )


class _Numbers:
    """The columns of all files that are no text, one value per completion."""

    def __init__(self, files: Sequence[Path]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        self.files = list(files)
        tables, lengths = [], []
        for file in files:
            names = pq.read_schema(file).names
            scores = [name for name in names if name.startswith(history.SCORES)]
            wanted = ["step", "batch", "mode", "group", "advantage", "weights", *scores]
            tables.append(pq.read_table(file, columns=[each for each in wanted if each in names]))
            ids = pq.read_table(file, columns=["completion_ids"])["completion_ids"]
            lengths.append(pc.list_value_length(ids).to_numpy())
        self.sizes = [len(table) for table in tables]
        table = pa.concat_tables(tables, promote_options="default")
        self.count = len(table)
        self.step, self.batch, self.group, advantage = (
            table[name].to_numpy() for name in ("step", "batch", "group", "advantage")
        )
        self.advantage = advantage.astype(float)
        self.mode = np.array(table["mode"].to_pylist())
        self.length = np.concatenate(lengths)
        columns = [name for name in table.column_names if name.startswith(history.SCORES)]
        self.rewards = [name.removeprefix(history.SCORES) for name in columns]
        found = [table[name].to_numpy().astype(float) for name in columns]
        self.scores = np.stack(found, axis=1) if found else np.empty((self.count, 0))
        written = table["weights"].to_pylist() if "weights" in table.column_names else []
        by_text = {text: json.loads(text or "{}") for text in set(written)}
        self.weights = np.array(
            [[by_text[text].get(name, 1.0) for name in self.rewards] for text in written]
            or np.ones_like(self.scores)
        ).reshape(self.scores.shape)
        total = np.nansum(self.scores * self.weights, axis=1)
        self.total = np.where(np.isnan(self.scores).all(axis=1), np.nan, total)


def _chosen(table: _Numbers) -> dict[int, list[str]]:
    """The places of the completions to hold, each with what for."""
    chosen: dict[int, list[str]] = {}

    def take(places: Any, why: str) -> None:
        for place in places:
            chosen.setdefault(int(place), []).append(why)

    known = np.flatnonzero(~np.isnan(table.total) & (table.mode == "train"))
    order = known[np.argsort(table.total[known], kind="stable")]
    half = len(order) // 2  # of few, each is one of the two
    take(order[half:][::-1][:ENDS], BEST)
    take(order[:half][:ENDS], WORST)
    unscored = np.flatnonzero(np.isnan(table.scores).any(axis=1))
    take(_spread(unscored, MOST_UNSCORED), UNSCORED)
    random = np.random.default_rng(SEED)
    steps, inverse = np.unique(table.step, return_inverse=True)
    of_a_step = min(OF_A_STEP, max(1, SAMPLED // len(steps)))
    by_step = np.split(np.argsort(inverse, kind="stable"), np.cumsum(np.bincount(inverse))[:-1])
    for number in _spread(np.arange(len(steps)), SAMPLED):
        places = by_step[number]
        take(random.permutation(places)[:of_a_step], SAMPLE)
    return dict(sorted(chosen.items()))


def _spread(values: Any, most: int) -> Any:
    """At most ``most`` of the values, evenly over all."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(int)]


def _texts(
    table: _Numbers, chosen: Mapping[int, list[str]]
) -> tuple[list[dict[str, Any]], list[str]]:
    numbers: dict[str, int] = {}
    rows = [
        _row(table, place, why, texts, numbers)
        for (place, why), texts in zip(
            chosen.items(),
            _read(table, list(chosen), ("prompt", "completion", "conversational", "columns")),
            strict=True,
        )
    ]
    return rows, list(numbers)


def _row(
    table: _Numbers, place: int, why: list[str], texts: Mapping[str, Any], numbers: dict[str, int]
) -> dict[str, Any]:
    """One completion as the page has it."""
    prompt = _cut(_said(texts["prompt"], texts["conversational"]), TEXT)
    return {
        "step": int(table.step[place]),
        "mode": str(table.mode[place]),
        "group": f"{table.batch[place]}.{table.group[place]}",
        "why": why,
        "reward": _number(table.total[place]),
        "scores": [_number(value) for value in table.scores[place]],
        "weights": [_number(value) for value in table.weights[place]],
        "advantage": _number(table.advantage[place]),
        "tokens": int(table.length[place]),
        "prompt": numbers.setdefault(prompt, len(numbers)),
        "completion": _cut(_said(texts["completion"], texts["conversational"]), TEXT),
        "columns": _cut(texts["columns"] if texts["columns"] != "{}" else "", COLUMNS),
    }


def _read(table: _Numbers, places: Sequence[int], columns: Sequence[str]) -> Iterator[Any]:
    """Some columns of the rows at rising places."""
    import pyarrow.parquet as pq

    wanted, start = np.asarray(places, dtype=int), 0
    for file, size in zip(table.files, table.sizes, strict=True):
        inside = wanted[(wanted >= start) & (wanted < start + size)] - start
        if len(inside):
            yield from pq.read_table(file, columns=list(columns)).take(inside).to_pylist()
        start += size


def _never_varied(table: _Numbers) -> tuple[int, int, list[dict[str, Any]], int]:
    """Groups, those that are alike, prompts all of whose groups are, and prompts."""
    places = np.flatnonzero((table.mode == "train") & ~np.isnan(table.total))
    keys = np.stack([table.batch[places], table.group[places]], axis=1)
    _, first, inverse, counts = np.unique(
        keys, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    inverse = inverse.reshape(-1)
    high, low = np.full(len(counts), -np.inf), np.full(len(counts), np.inf)
    np.maximum.at(high, inverse, table.total[places])
    np.minimum.at(low, inverse, table.total[places])
    compared = counts > 1
    alike = compared & (high - low < 1e-8)
    chosen = np.flatnonzero(compared)
    order = np.argsort(places[first[chosen]])
    by_prompt: dict[str, list[int]] = {}
    texts = _read(table, places[first[chosen[order]]].tolist(), ("prompt", "conversational"))
    for group, row in zip(chosen[order], texts, strict=True):
        said = _said(row["prompt"], row["conversational"])
        by_prompt.setdefault(said, []).append(int(group))
    never: list[dict[str, Any]] = [
        {"prompt": _cut(prompt, TEXT), "groups": len(groups), "reward": float(high[groups].mean())}
        for prompt, groups in by_prompt.items()
        if alike[groups].all()
    ]
    never.sort(key=lambda each: (-each["groups"], each["reward"]))
    return int(compared.sum()), int(alike.sum()), never, len(by_prompt)


def failed(folder: Path) -> list[dict[str, Any]]:
    """What is kept of batches on which a reward failed, the newest first."""
    files = sorted((folder / failures.FOLDER).glob("*.jsonl"), reverse=True)[:FILES]
    return [each for file in files if (each := _failure(file)) is not None]


def _failure(file: Path) -> dict[str, Any] | None:
    rows = []
    try:
        with file.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line, _ in zip(lines, range(LINES), strict=False)]
    except (OSError, ValueError):
        return None
    broken = [row for row in rows if row.get("failure")]
    if not broken:
        return None
    first = broken[0]
    step, _, reward = file.stem.removeprefix("step-").partition("-")
    return {
        "step": int(step) if step.isdigit() else None,
        "reward": reward,
        "failed": len(broken),
        "of": len(rows),
        "kind": first["failure"].get("kind"),
        "message": first["failure"].get("message"),
        "detail": _cut(str(first["failure"].get("detail") or ""), TEXT),
        "prompt": _cut(_text_of(first.get("prompt")), TEXT),
        "completion": _cut(_text_of(first.get("completion")), TEXT),
        "file": str(file),
    }


def _said(text: str, conversational: bool) -> str:
    return _text_of(json.loads(text)) if conversational else text


def _text_of(value: Any) -> str:
    """Text, or messages as one reads them: several each under the name of its role."""
    if not isinstance(value, list):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(value) == 1 and isinstance(value[0], Mapping) and {*value[0]} == {"role", "content"}:
        return _text_of(value[0]["content"])
    return "\n\n".join(_message(each) for each in value)


def _message(message: Any) -> str:
    if not isinstance(message, Mapping):
        return json.dumps(message, ensure_ascii=False)
    content = message.get("content")
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    rest = {key: value for key, value in message.items() if key not in ("role", "content")}
    more = [json.dumps(rest, ensure_ascii=False)] if any(rest.values()) else []
    return "\n".join([f"[{message.get('role')}]", text, *more])


def _cut(text: str, most: int) -> str:
    """The beginning of a text, which says how much there was."""
    return text if len(text) <= most else f"{text[:most]} … (of {len(text):,} characters)"


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
