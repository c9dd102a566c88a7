"""Rows that say what another row says: within a dataset, and in one to train on and one to test on.

Only the columns that training reads are compared: two rows that differ in an id are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trl_deepseek.data import rows

# What the trainers read of a row; of a dataset without any of these, all columns count.
READ = (
    *("messages", "conversations", "prompt", "completion", "chosen", "rejected", "label"),
    *("instruction", "input", "output", "question", "system", "history", "text", "input_ids"),
    *("image", "images", "chosen_ids", "rejected_ids", "prompt_ids", "completion_ids"),
)


def repeated(dataset: Any) -> dict[int, int]:
    """Rows of a table that repeat an earlier one, each with the first that says the same."""
    first: dict[bytes, int] = {}
    found = {}
    for number, digest in enumerate(_digests(dataset, _read(dataset))):
        earlier = first.setdefault(digest, number)
        if earlier != number:
            found[number] = earlier
    return found


def leaked(train: Any, held_out: Any) -> dict[int, int]:
    """Rows of ``held_out`` that stand in ``train``, each with the first row there.

    Both are tables; of columns that only one of them has, nothing is compared.
    """
    columns = [name for name in _read(held_out) if name in rows.column_names(train)]
    if not columns:
        return {}
    places: dict[bytes, int] = {}
    for number, digest in enumerate(_digests(train, columns)):
        places.setdefault(digest, number)
    return {
        number: places[digest]
        for number, digest in enumerate(_digests(held_out, columns))
        if digest in places
    }


def _read(dataset: Any) -> list[str]:
    columns = rows.column_names(dataset)
    return [name for name in columns if name in READ] or columns


def _digests(dataset: Any, columns: Sequence[str]) -> Iterator[bytes]:
    for row in dataset.select_columns(list(columns)):
        text = json.dumps(_whole(row), sort_keys=True, default=repr)
        yield hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()


def _whole(value: Any) -> Any:
    """Without the empty keys that columnar files add to messages."""
    if isinstance(value, Mapping):
        return {key: _whole(inner) for key, inner in value.items() if inner is not None}
    return [_whole(inner) for inner in value] if isinstance(value, list) else value
