"""AlpacaEval's annotations: what a judge has said of pairs of answers, in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trl_deepseek.errors import DataError, did_you_mean

COLUMNS = ("instruction", "output_1", "output_2", "preference")


@dataclass(frozen=True)
class Annotations:
    """Preferences for a model over a baseline.

    Attributes:
        file: Where they stand.
        preferences: By instruction, the baseline's answer and the model's: 0 to 1; None where the
            judge had none.
    """

    file: str
    preferences: Mapping[tuple[str, str, str], float | None]

    def preference(self, instruction: str, output: str, baseline: str) -> float:
        """The preference for ``output`` over ``baseline``; 0.5 for equal answers.

        Raises:
            DataError: The file does not know these answers to this instruction, or has no
                preference.
        """
        if output == baseline:
            return 0.5
        found = self.preferences.get((instruction, baseline, output))
        if found is not None:
            return found
        same = [key for key in self.preferences if key[0] == instruction]
        what = "has other answers to" if same else "knows nothing of"
        if (instruction, baseline, output) in self.preferences:
            what = "has no preference for"
        raise DataError(
            f"{self.file} {what} the instruction {instruction[:60]!r}\n"
            "  annotations are of the very answers that are measured: of this model, sampled alike"
        )


def read_annotations(file: str) -> Annotations:
    """Read ``annotations.json``: a list of mappings with two outputs and a preference.

    A preference is 1 for ``output_1``, the baseline, 2 for ``output_2``, the model, anything
    between, and 0 for a tie.

    Raises:
        DataError: It is not one.
        OSError: It cannot be read.
    """
    try:
        rows = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is no JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file} must hold a list of annotations")
    found: dict[tuple[str, str, str], float | None] = {}
    for number, row in enumerate(rows):
        for name in COLUMNS:
            if name not in row:
                hint = did_you_mean(name, row, inline=True)
                raise DataError(f"annotation {number} of {file} has no {name!r}{hint}")
        given = row["preference"]
        if given is not None and not _is_preference(given):
            raise DataError(
                f"annotation {number} of {file}: preference is {given!r}; it must be from 1 (the "
                "first output) to 2 (the second), or 0 for a tie"
            )
        value = None if given is None else 0.5 if given == 0 else float(given) - 1
        found[row["instruction"], row["output_1"], row["output_2"]] = value
    return Annotations(file, found)


def _is_preference(given: object) -> bool:
    number = isinstance(given, (int, float)) and not isinstance(given, bool)
    return number and (given == 0 or 1 <= float(given) <= 2)  # type: ignore[arg-type]
