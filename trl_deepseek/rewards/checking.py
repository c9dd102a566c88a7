"""Asking rewards about the rows of a dataset, before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trl_deepseek.errors import DataError
from trl_deepseek.rewards.own_rows import is_own
from trl_deepseek.rewards.signature import name_of

SHOWN = 5  # rows that a message names


def check_rows(functions: Sequence[Any], rows: Iterable[Mapping[str, Any]]) -> None:
    """Check that every reward can score every row, where it says how to tell.

    Args:
        functions: As :func:`trl_deepseek.rewards.resolve` returns them.
        rows: Of the dataset; of one that is streamed, none.

    Raises:
        DataError: One cannot; the message names the reward, the rows and the first one's fault.
    """
    for function in functions:
        check = getattr(function, "check_row", None)
        if check is None:
            continue
        wrong = [
            (index, said)
            for index, row in enumerate(rows)
            if is_own(function, row) and (said := check(row))
        ]
        if wrong:
            numbers = ", ".join(str(index) for index, _ in wrong[:SHOWN])
            more = ", ..." if len(wrong) > SHOWN else ""
            raise DataError(
                f"reward {name_of(function)!r} cannot score row {wrong[0][0]}: {wrong[0][1]}\n"
                f"  {len(wrong)} such rows: {numbers}{more}; mend them or leave them out"
            )
