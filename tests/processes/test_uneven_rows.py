"""Rows that do not fill the batches of several processes count twice, and that is said."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.data_loader import prepare_data_loader

from trl_deepseek.trainers import uneven


def trainer(rows: Any, held_out: Any = None, processes: int = 2, **args: Any) -> Any:
    given = {
        "world_size": processes,
        "dataloader_drop_last": False,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 1,
    }
    return SimpleNamespace(
        args=SimpleNamespace(**{**given, **args}),
        train_dataset=rows,
        eval_dataset=held_out,
        is_world_process_zero=lambda: True,
    )


@pytest.mark.parametrize("count", [1, 5, 7, 8])
def test_as_many_rows_are_named_as_accelerate_gives_out_twice(
    count: int, caplog: pytest.LogCaptureFixture
) -> None:
    loader: Any = torch.utils.data.DataLoader(list(range(count)), batch_size=2)  # type: ignore[arg-type]
    shares = (
        prepare_data_loader(loader, num_processes=2, process_index=rank, put_on_device=False)
        for rank in (0, 1)
    )
    twice = sum(len(batch) for share in shares for batch in share) - count
    uneven.tell(trainer(range(count)))
    said = f"; rows trained on twice in each epoch: {twice}"
    assert caplog.messages == (
        [f"{count} rows do not fill batches of 2 on 2 processes{said}"] if twice else []
    )


def test_held_out_rows_are_named_by_their_table_and_one_process_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    uneven.tell(trainer(range(8), {"hard": range(3), "easy": range(4), "stream": iter([1])}))
    assert caplog.messages == [
        "hard: 3 rows do not fill batches of 1 on 2 processes; rows that count twice in what is "
        "logged: 1"
    ]
    caplog.clear()
    uneven.tell(trainer(range(5), processes=1))
    uneven.tell(trainer(range(5), dataloader_drop_last=True))
    uneven.tell(trainer(range(5), num_generations=4))
    assert caplog.messages == []
