from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.errors import DataError, RunError
from trl_deepseek.rollouts import history
from trl_deepseek.rollouts.history import History, Row, read


def add(log: History, step: int, **changes: Any) -> None:
    batch: dict[str, Any] = {
        "step": step,
        "mode": "train",
        "prompts": ["1+1", "1+1", "[2]", "[2]"],
        "completions": ["2", "3", "4", "5"],
        "completion_ids": [[7], [8, 9], [], [1]],
        "columns": [{"solution": "2"}, {"solution": "2"}, {"tests": [{"input": 1}]}, {}],
        "scores": {"exact": [1.0, 0.0, None, float("nan")]},
        "advantages": [0.5, -0.5, 0.0, 0.0],
        "group_size": 2,
        "generation_prefix": "<think>\n",
    }
    log.add(**batch | changes)
    log.flush()


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    add(History(str(tmp_path), fresh=True), step=3)
    rows = list(read(tmp_path))
    assert rows[1] == Row(
        step=3,
        batch=0,
        mode="train",
        group=0,
        prompt="1+1",
        completion="3",
        completion_ids=[8, 9],
        generation_prefix="<think>\n",
        columns={"solution": "2"},
        advantage=-0.5,
        scores={"exact": 0.0},
    )
    assert [row.group for row in rows] == [0, 0, 1, 1]
    assert [row.scores["exact"] for row in rows] == [1.0, 0.0, None, None]
    assert rows[2].prompt == "[2]"  # text that looks like JSON stays text
    assert rows[2].columns == {"tests": [{"input": 1}]}


def test_conversations_are_read_back_as_messages(tmp_path: Path) -> None:
    prompt = [{"role": "user", "content": "你好"}]
    completion = [{"role": "assistant", "content": "4"}]
    log = History(str(tmp_path), fresh=True)
    add(log, 0, prompts=[prompt] * 4, completions=[completion] * 4)
    row = next(iter(read(tmp_path)))
    assert (row.prompt, row.completion) == (prompt, completion)


def test_small_files_are_joined_and_nothing_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "JOIN", 3)
    log = History(str(tmp_path), fresh=True)
    for step in range(7):
        name = "exact" if step < 2 else "other"  # the rewards changed on the way
        add(log, step, scores={name: [1.0] * 4})
    names = sorted(path.name for path in (tmp_path / "completions").iterdir())
    assert names == [
        "batches-00000000-00000002.parquet",
        "batches-00000003-00000005.parquet",
        "batches-00000006-00000006.parquet",
    ]
    assert [row.step for row in read(tmp_path)] == [step for step in range(7) for _ in range(4)]
    assert next(iter(read(tmp_path))).scores == {"exact": 1.0, "other": None}


def test_a_crash_while_joining_or_writing_neither_doubles_nor_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "JOIN", 2)
    monkeypatch.setattr(Path, "unlink", lambda self: None)  # it died before it could tidy up
    log = History(str(tmp_path), fresh=True)
    add(log, 0)
    add(log, 1)
    (tmp_path / "completions" / "batches-00000002-00000002.tmp").write_bytes(b"PAR1 half")
    assert [row.step for row in read(tmp_path)] == [0] * 4 + [1] * 4
    again = History(str(tmp_path), fresh=False)
    add(again, 2)
    assert (again.folder / "batches-00000002-00000002.parquet").is_file()
    assert [row.step for row in read(tmp_path)] == [0] * 4 + [1] * 4 + [2] * 4


def test_a_new_run_in_the_same_folder_moves_the_old_completions_aside(tmp_path: Path) -> None:
    add(History(str(tmp_path), fresh=True), 0)
    add(History(str(tmp_path), fresh=True), 5)
    assert {row.step for row in read(tmp_path)} == {5}
    assert {row.step for row in read(tmp_path / "completions-1")} == {0}


def test_a_disk_that_takes_nothing_stops_the_run_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    log = History(str(tmp_path), fresh=True)
    with pytest.raises(RunError) as caught:
        add(log, 0)
    assert str(caught.value) == (
        f"completions cannot be saved in {tmp_path / 'completions'}: No space left on device\n"
        "  to train without saving them: save_completions false"
    )


def test_a_folder_without_completions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no saved completions"):
        list(read(tmp_path))
