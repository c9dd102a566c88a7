"""Labels of rows that TRL tokenizes, made by columns.

TRL makes them row by row, which takes a fifth of its preparation, and leaves rows alone that have
labels: they are given empty ones before.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from trl_deepseek import row_findings
from trl_deepseek.data import rows
from trl_deepseek.data.rows import LABELS
from trl_deepseek.data.values import IGNORED


def reserve(dataset: Any) -> tuple[Any, bool]:
    """The dataset, with empty labels where they are to be made by :func:`fill`; and whether so.

    Streams, rows that are tokenized already and rows in a format of their own are left to TRL.
    """
    if (
        not rows.is_table(dataset)
        or {"input_ids", LABELS} & set(dataset.column_names)
        or dataset.format["type"] is not None
    ):
        return dataset, False
    import pyarrow as pa

    return dataset.add_column(LABELS, pa.nulls(len(dataset))), True


def fill(dataset: Any, masks: Sequence[str], what: str) -> Any:
    """The rows with their labels, as TRL makes them, and without the masks.

    Args:
        dataset: Rows of :func:`reserve` with ``input_ids`` and masks, each as long.
        masks: The columns that say 1 of a token which the loss counts.
        what: The title of a progress bar.
    """
    from datasets import Features, List, Value

    names = [name for name in dataset.column_names if name not in (*masks, LABELS)]
    features = {name: dataset.features[name] for name in names}
    return (
        dataset.with_format("arrow")
        .map(
            partial(_filled, names=names, masks=masks),
            batched=True,
            remove_columns=dataset.column_names,
            features=Features({**features, LABELS: List(Value("int64"))}),
            new_fingerprint=row_findings.fingerprint(dataset, ["labels", *masks]),
            desc=what,
        )
        .with_format(None)
    )


def _filled(batch: Any, *, names: Sequence[str], masks: Sequence[str]) -> Any:
    import pyarrow as pa

    tokens = batch["input_ids"].combine_chunks()
    labels = tokens.flatten().to_numpy().astype(np.int64)
    for name in masks:
        labels[batch[name].combine_chunks().flatten().to_numpy() == 0] = IGNORED
    ends = tokens.value_lengths().to_numpy().cumsum()
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return batch.select(names).append_column(LABELS, pa.ListArray.from_arrays(offsets, labels))
