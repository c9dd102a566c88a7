"""Prompts and answers that are text as turns of a conversation."""

from __future__ import annotations

from typing import Any

from trl_deepseek.data import rows

# Who says what stands in a column.
SPEAKERS = {
    "prompt": "user",
    "completion": "assistant",
    "chosen": "assistant",
    "rejected": "assistant",
}


def as_messages(dataset: Any) -> Any:
    """The dataset, whose prompts that are text are the user's turn, and answers the assistant's.

    Args:
        dataset: A ``Dataset`` or ``IterableDataset``. What holds messages stays, and so does a
            dataset without a prompt of its own.
    """
    names = rows.column_names(dataset)
    texts = [column for column in SPEAKERS if column in names]
    if "prompt" not in names:
        return dataset

    def turned(row: rows.Row) -> dict[str, Any]:
        return {
            column: [{"role": SPEAKERS[column], "content": row[column]}]
            for column in texts
            if isinstance(row[column], str)
        }

    return dataset.map(turned)
