"""What ``datasets`` keeps is made by the code of now; where it can keep nothing, that is said."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import Dataset

import trl_deepseek
from trl_deepseek import data, load_registry, row_findings
from trl_deepseek.data import demonstration_rows
from trl_deepseek.errors import ConfigError

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data file, and a cache of its own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"instruction": "1+1=?", "input": "now", "output": "2"}) + "\n")
    return path


def prompt(file: Path, by_name: bool) -> str:
    """The first prompt as SFT reads it, from a file that is loaded by a command or in Python."""
    registry = load_registry()
    if by_name:
        rows = data.load(str(file), registry, kind="demonstrations")
    else:
        rows = datasets.load_dataset("json", data_files=str(file), split="train")
    config = trl_deepseek.SFTConfig(output_dir=str(file.parent / "out"), report_to="none")
    inputs = trl_deepseek.SFTTrainer.check("tiny-deepseek-llm", config, rows, registry=registry)
    turns: Any = inputs.train_dataset[0]["prompt"]
    return turns if isinstance(turns, str) else str(turns[-1]["content"])


@pytest.mark.parametrize("by_name", [True, False])
def test_rows_are_rewritten_by_the_code_of_now(
    by_name: bool, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "now" in prompt(file, by_name)
    written = demonstration_rows._alpaca

    def upgraded(row: Any) -> dict[str, Any]:
        return written({**row, "input": "later"})

    upgraded.__module__, upgraded.__qualname__ = written.__module__, "_alpaca"
    monkeypatch.setattr(demonstration_rows, "_alpaca", upgraded)
    monkeypatch.setattr(row_findings, "_code", lambda: "that of an upgrade")
    assert "later" in prompt(file, by_name)


def test_all_of_our_code_counts() -> None:
    package = Path(trl_deepseek.__file__).parent
    read = []

    class Watched(type(package)):  # type: ignore[misc]
        def read_bytes(self) -> bytes:
            read.append(self.relative_to(package).as_posix())
            return b""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_findings, "Path", Watched)
        row_findings._code.__wrapped__()
    assert {"trainers/reward.py", "chat/one_shape.py", "data/preferences.py"} < {*read}


def test_rows_keep_their_name_from_run_to_run_and_the_caller_s_stay_as_they_are(
    file: Path,
) -> None:
    rows = datasets.load_dataset("json", data_files=str(file), split="train")
    before = rows._fingerprint
    names = {data.known_with_code(rows)._fingerprint for _ in range(2)}
    assert len(names) == 1
    assert rows._fingerprint == before
    stream = rows.to_iterable_dataset()
    assert data.known_with_code(stream) is stream


def test_a_cache_that_cannot_be_written_is_named_and_not_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", file / "below")
    words = rf"^the cache of datasets, '{re.escape(str(file))}/below', cannot be written: Not a dir"
    with pytest.raises(ConfigError, match=words):
        data.load(str(file), load_registry(), kind="demonstrations")


FULL = "No space left on device"


@pytest.mark.parametrize(
    ("error", "free", "said"),
    [
        (OSError(errno.ENOSPC, FULL), 2**16, FULL),
        (OSError(errno.ENOSPC, FULL), 2**40, None),
        (ValueError("I/O operation on closed file."), 2**16, FULL),
        (ValueError("I/O operation on closed file."), 2**40, None),
        (OSError("Not enough disk space. Needed: 2 GB"), 2**30, "Not enough disk space. Needed: 2"),
        (PermissionError(errno.EACCES, "", "CACHE/rows.lock"), 2**40, os.strerror(errno.EACCES)),
        (FileNotFoundError(errno.ENOENT, "", "elsewhere"), 2**40, None),
        (RuntimeError("something else"), 2**16, None),
    ],
)
def test_what_the_disk_of_the_cache_makes_libraries_raise_is_said_as_the_cache_s(
    error: Exception, free: int, said: str | None, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**50, 0, free))
    if isinstance(error, OSError) and error.filename:
        error.filename = error.filename.replace("CACHE", str(file.parent / "cache"))
    if said is None:
        with pytest.raises(type(error)) as raised, data.cache_explained():
            raise error
        assert raised.value is error
        return
    words = rf"cannot be written: {re.escape(said)}.*\n  make room .* HF_DATASETS_CACHE$"
    wrapping = RuntimeError("of a library around it")
    wrapping.__cause__ = error
    with pytest.raises(ConfigError, match=words), data.cache_explained():
        raise wrapping


def test_a_trainer_says_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(2**50, 0, 2**16))

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, FULL)

    rows = Dataset.from_list([{"prompt": "1+1=", "completion": "2"}])
    config = trl_deepseek.SFTConfig(output_dir=str(tmp_path), report_to="none")
    inputs = trl_deepseek.SFTTrainer.check("tiny-deepseek-llm", config, rows)
    monkeypatch.setattr(Dataset, "map", full)
    with pytest.raises(
        ConfigError, match=r"^the cache of datasets, .* cannot be written: No space"
    ):
        trl_deepseek.SFTTrainer(inputs)
