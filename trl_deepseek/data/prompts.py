"""Prompts for GRPO, checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from trl_deepseek.data import rows, values
from trl_deepseek.errors import DataError

# Names under which a reward is handed something else than the column.
RESERVED = (
    "prompts",
    "completions",
    "generation_prefix",
    "trainer_state",
    "log_extra",
    "log_metric",
)


def check_prompts(
    dataset: Any,
    source: str,
    numbers: Iterable[str] = (),
    *,
    who: str = "GRPO",
    environments: Collection[str] | None = None,
) -> Any:
    """The dataset, each row of which has a prompt that something can be generated from.

    Args:
        dataset: A ``Dataset`` or ``IterableDataset``; a stream is checked as it is read.
        source: Its name, for messages.
        numbers: Columns that rewards read: where they hold numbers, these are finite.
        who: What needs the prompts, for messages.
        environments: Where environments may bring the prompts, so that no column is needed: their
            names, one of which each row has in its column ``environment``; none for a single one.

    Raises:
        DataError: There is no row or a column is missing, a column has a name that rewards are
            given other things under, or a row is malformed; names the row.
    """
    first = rows.first(dataset, source)
    columns = rows.column_names(dataset)
    needs = ["prompt"] if environments is None else ["environment"] if environments else []
    if "prompt" in needs and "prompt" not in columns:
        raise DataError(
            f"{source} has no column 'prompt', which {who} needs\n"
            f"  columns found: {', '.join(columns)}\n"
            "  another column can stand for it: --columns OTHER=prompt"
        )
    if "environment" in needs and "environment" not in columns:
        raise DataError(
            f"{source} has no column 'environment', which names the environment of each row\n"
            f"  columns found: {', '.join(columns)}\n"
            f"  environments: {', '.join(environments or ())}"
        )
    if "prompt" in columns and "prompt" not in needs:
        needs.append("prompt")
    taken = [name for name in RESERVED if name in columns]
    if taken:
        names = ", ".join(map(repr, taken))
        raise DataError(
            f"{source} has a column {names}, a name under which rewards are given something else\n"
            f"  rename it: --columns {taken[0]}=my_{taken[0]}, or dataset.rename_columns"
        )
    read = [name for name in dict.fromkeys(numbers) if name in columns and name != "prompt"]

    def fault(row: rows.Row) -> str | None:
        if "prompt" in needs:
            found = _fault_of_prompt(row.get("prompt"), first.get("prompt"))
            if found is not None:
                return f"column 'prompt' {found}"
        if environments and row.get("environment") not in environments:
            known = f"which is none of {', '.join(environments)}"
            return f"column 'environment' holds {row.get('environment')!r}, {known}"
        for name in read:
            if isinstance(row.get(name), float):
                found = values.fault_of_number(row[name])
                if found is not None:
                    return f"column {name!r} {found}"
        return None

    key = [needs, read, isinstance(first.get("prompt"), str), sorted(environments or ())]
    return rows.check(dataset, source, fault, [*needs, *read], key=key)


def _fault_of_prompt(prompt: Any, first: Any) -> str | None:
    """What keeps a prompt from being asked, also beside the first row's."""
    found = values.fault_of_turns(prompt)
    if found is not None:
        return found
    if isinstance(prompt, str) and not prompt.strip():
        return "holds empty text"
    if isinstance(prompt, str) == isinstance(first, str):
        return None
    kind = "text" if isinstance(prompt, str) else "messages"
    return (
        f"holds {kind}, unlike the first row: all prompts are text, or all are messages\n"
        "  --as_messages makes turns of those that are text"
    )


def check_batch(dataset: Any, prompts: int, source: str) -> None:
    """Refuse a table with fewer prompts than one generated batch has: no step would be made.

    Args:
        dataset: A ``Dataset``; the length of a stream is not known.
        prompts: Different prompts in one generated batch, over all processes.
        source: The dataset's name, for messages.

    Raises:
        DataError: There are fewer.
    """
    if not rows.is_table(dataset):
        return
    total = len(dataset)
    if total < prompts:
        raise DataError(
            f"{source} has {total} prompts, and one generated batch takes {prompts}: no step would "
            "be made\n  lower per_device_train_batch_size or gradient_accumulation_steps, or raise "
            "num_generations"
        )
    if total % prompts:
        rows.logger.info(
            "%s: %d of %d prompts, others in each epoch, do not fill a generated batch of %d and "
            "are left out of that epoch",
            source,
            total % prompts,
            total,
            prompts,
        )
