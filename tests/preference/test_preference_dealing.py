"""Pairs taken apart: classes alternate, and neighbours are of different prompts."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from datasets import Dataset

from trl_deepseek.data import preferences

KEEP = SimpleNamespace(drop_bad_rows=False)


@pytest.mark.parametrize("pairs", [2, 3, 8, 1001, 2500])
@pytest.mark.parametrize("batch", [2, 3, 4, 8])
def test_every_batch_of_singles_holds_both_classes_and_no_neighbours_share_a_prompt(
    pairs: int, batch: int
) -> None:
    rows = [{"prompt": str(i), "chosen": f"{i}+", "rejected": f"{i}-"} for i in range(pairs)]
    singles = list(preferences.dealt(preferences.either(Dataset.from_list(rows), KEEP)))
    assert sorted(row["completion"] for row in singles) == sorted(
        text for row in rows for text in (row["chosen"], row["rejected"])
    )
    for row in singles:
        assert row["completion"] == row["prompt"] + ("+" if row["label"] else "-")
    for first in range(0, len(singles), batch):
        members = singles[first : first + batch]
        if len(members) == 1:  # what is left over of an odd batch size
            continue
        assert {row["label"] for row in members} == {True, False}
        prompts = [row["prompt"] for row in members]
        moved = [prompts[-1], *prompts[:-1]]  # as KTO's estimate of the KL moves completions
        if pairs != batch - 1:  # there the first and last row are of the first pair
            assert all(a != b for a, b in zip(prompts, moved, strict=True))
