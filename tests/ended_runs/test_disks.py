"""Disks that are full or gone, a stdout that nobody reads: the last whole checkpoint survives."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from trl_deepseek.cli.main import main
from trl_deepseek.errors import RunError
from trl_deepseek.memory import disk
from trl_deepseek.trainers import room

Words = Callable[..., list[str]]


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 40 MB, where that may be mounted."""
    place = folder / "small"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(options, check=False).returncode:
        pytest.skip("no file system may be mounted here; the other tests raise what one would")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(place: Path, leave: int) -> None:
    with contextlib.suppress(OSError), (place / "filler").open("wb") as file:
        while (left := disk.free(place) - leave) > 0:
            file.write(b"x" * min(left, 2**20))
            file.flush()


def last(error: str) -> str:
    return error[error.rindex("trl-deepseek sft: ") :]


def test_a_disk_that_fills_up_ends_the_run_with_its_last_checkpoint(
    small_disk: Path,
    words: Words,
    in_step: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    in_step(2, lambda: fill(small_disk, 100_000))
    assert main(words("sft", output_dir=small_disk / "out")) == 1
    said = last(capsys.readouterr().err)
    kept = small_disk / "out" / "checkpoint-1"
    assert f"the disk of '{small_disk}/out' has " in said
    assert f"the last checkpoint is {kept}; make room and go on with" in said
    (small_disk / "filler").unlink()
    resumed = words(
        "sft", output_dir=small_disk / "out", resume_from_checkpoint="true", max_steps=2
    )
    assert main(resumed) == 0


def test_a_disk_that_fills_up_while_a_checkpoint_is_written_leaves_the_last_one_whole(
    small_disk: Path,
    words: Words,
    in_step: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_step(2, lambda: fill(small_disk, 100_000))
    monkeypatch.setattr(disk, "shortage", lambda *_: None)  # as if it filled up only then
    assert main(words("sft", output_dir=small_disk / "out")) == 1
    said = last(capsys.readouterr().err)
    assert "/out' cannot be written: No space left on device" in said
    assert (
        f"the last checkpoint is {small_disk / 'out' / 'checkpoint-1'}; make room and go on" in said
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.usefixtures("folder")
def test_what_the_system_says_of_a_disk_is_one_message(
    words: Words,
    in_step: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        # as safetensors has it
        raise safetensors.SafetensorError(
            f"Error: I/O error: {os.strerror(number)} (os error {number})"
        )

    def from_now_on() -> None:
        monkeypatch.setattr("transformers.modeling_utils.safe_save_file", fail)

    in_step(2, from_now_on)
    assert main(words("sft")) == 1
    said = last(capsys.readouterr().err)
    assert f"'out' cannot be written: {os.strerror(number)}" in said
    assert said.endswith("go on with --resume_from_checkpoint out/checkpoint-1\n")
    assert len(said.splitlines()) == 2


@pytest.mark.usefixtures("folder")
def test_a_folder_that_is_removed_in_mid_run_ends_it_with_a_checkpoint_in_a_new_one(
    words: Words, in_step: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    in_step(3, lambda: shutil.rmtree("out"))
    assert main(words("sft")) == 1
    assert last(capsys.readouterr().err) == (
        "trl-deepseek sft: 'out' was removed or emptied while the run went on\n"
        "  the last checkpoint is out/checkpoint-3; see who did it and go on with "
        "--resume_from_checkpoint out/checkpoint-3\n"
    )


@pytest.mark.usefixtures("folder")
def test_a_stdout_that_nobody_reads_ends_a_run_with_its_last_checkpoint(
    words: Words,
    in_step: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    in_step(2, lambda: monkeypatch.setattr(sys, "stdout", Closed()))
    assert main(words("sft", logging_steps=1)) == 1
    said = last(capsys.readouterr().err)
    assert "stdout or stderr is closed: whoever read it has ended\n" in said
    assert "the last checkpoint is out/checkpoint-1; send it to a file and go on with" in said


@pytest.mark.usefixtures("folder")
def test_a_result_that_finds_stdout_closed_or_full_is_missed(
    words: Words, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys, "stdout", Full())
    assert main(words("sft", "--json", max_steps=1)) == 1
    assert last(capsys.readouterr().err) == (
        "trl-deepseek sft: stdout cannot be written: No space left on device\n"
        "  all else was done; send it to a file or to another disk\n"
    )
    assert Path("out/model.safetensors").is_file()


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["sft", "--help"], ["plugins"]])
def test_what_is_only_shown_ends_quietly_where_enough_of_it_was_read(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with contextlib.suppress(SystemExit):  # argparse and rich end by themselves
            assert main(words) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "number", "limit"),
    [({}, 1, None), ({"save_total_limit": 2}, 3, 2), ({"save_strategy": "no"}, 0, None)],
)
@pytest.mark.usefixtures("folder")
def test_without_room_for_the_checkpoints_that_will_stand_side_by_side_no_model_is_loaded(
    words: Words,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    number: int,
    limit: int | None,
) -> None:
    monkeypatch.setattr(disk, "free", lambda _: 1000)
    assert main(words("sft", **options)) == 2
    said = last(capsys.readouterr().err)
    assert "output_dir: the disk of 'out' has 1.0 kB free, and the run needs " in said
    assert (f"{number} x " in said) == bool(number)
    assert ("--save_total_limit 1" in said) == (limit is not None)
    assert not Path("out").exists()


@pytest.mark.parametrize("options", [{}, {"use_peft": "true"}, {"save_only_model": "true"}])
@pytest.mark.usefixtures("folder")
def test_the_estimate_of_a_checkpoint_is_what_it_takes(
    words: Words, monkeypatch: pytest.MonkeyPatch, options: dict[str, str]
) -> None:
    found: list[int] = []
    shortage = disk.shortage

    def note(folder: str, size: int, number: int, model: int) -> str | None:
        found.append(size)
        return shortage(folder, size, number, model)

    monkeypatch.setattr(disk, "shortage", note)
    assert main(words("sft", max_steps=1, **options)) == 0
    before_loading, before_training = found[:2]
    heavy = [
        path
        for path in Path("out/checkpoint-1").iterdir()
        if path.suffix == ".safetensors" or path.name == "optimizer.pt"
    ]
    written = sum(path.stat().st_size for path in heavy)
    assert before_loading == before_training
    assert written * 0.95 < before_training < written * 1.1
    assert json.loads(Path("out/run.json").read_text())["trainer"] == "SFT"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            FileExistsError(errno.EEXIST, "File exists", "out"),
            "File exists (out)\n  no checkpoint is there; see who put a file in its place",
        ),
        (RuntimeError("basic_ios::clear: iostream error"), "No space left on device"),
    ],
    ids=["a file in the folder's place", "torch's stream, on a full disk"],
)
@pytest.mark.usefixtures("folder")
def test_what_a_disk_makes_libraries_raise_is_said_as_the_disk_s(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free", lambda _: 1000)
    expected = re.escape(f"'out' cannot be written: {said}")
    with pytest.raises(RunError, match=expected), room.explained("out"):
        raise error
