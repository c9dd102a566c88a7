"""Which checkpoint a run goes on from, and what is said of those that are not whole."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from trl_deepseek import checkpoints
from trl_deepseek.checkpoints import manifest, rotating, writing
from trl_deepseek.errors import ConfigError, RunError
from trl_deepseek.jobs import running
from trl_deepseek.trainers import room


def checkpoint(folder: Path, step: int, *, whole: bool = True, noted: bool = True) -> Path:
    """A checkpoint with the files that transformers writes, without a trainer."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"weight": torch.full((64,), float(step))}, path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({"step": step}, path / name)
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    if noted:
        manifest.write(path, step=step)
    if not whole:
        (path / "optimizer.pt").unlink()
    return path


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


NEEDED = (
    "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json",
)  # fmt: skip


@pytest.mark.parametrize("noted", [True, False], ids=["ours", "of TRL"])
@pytest.mark.parametrize("damage", [Path.unlink, cut, empty, zeros], ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", NEEDED)
def test_a_damaged_file_of_any_kind_is_named_and_the_one_before_is_taken(
    name: str, damage: Callable[[Path], None], noted: bool, tmp_path: Path
) -> None:
    older = checkpoint(tmp_path, 2, noted=noted)
    torn = checkpoint(tmp_path, 10, noted=noted)
    damage(torn / name)
    found = checkpoints.newest(tmp_path)
    assert found.folder == str(older)
    (said,) = found.torn
    assert said.startswith(f"{torn}: ")
    assert name in said or (name, damage) == ("model.safetensors", Path.unlink)
    with pytest.raises(ConfigError) as refused:
        checkpoints.check(torn, "resume_from_checkpoint")
    assert str(refused.value) == (
        f"resume_from_checkpoint: checkpoint '{torn}' is not whole: {said.split(': ', 1)[1]}\n"
        f"  the newest whole one beside it is {older}"
    )


def test_a_change_that_keeps_the_size_is_found_by_its_digest(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path, 2)
    file = whole / "model.safetensors"
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(bytes(changed))
    assert checkpoints.newest(tmp_path).torn == (
        f"{whole}: model.safetensors has changed since it was saved",
    )


@pytest.mark.parametrize("text", ["", "[]", '{"files": 3}', '{"files": {"a": 1}}', '{"step": 2'])
def test_a_damaged_manifest_is_a_torn_checkpoint(text: str, tmp_path: Path) -> None:
    (checkpoint(tmp_path, 2) / "manifest.json").write_text(text)
    found = checkpoints.newest(tmp_path)
    assert found.folder is None
    assert "manifest.json" in found.torn[0]


class Calls:
    """A pickle that makes a file called ``run`` when it is loaded as any object is."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "run"

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("noted", [True, False], ids=["ours", "of TRL"])
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_that_calls_something_is_named_and_never_run(
    name: str, noted: bool, tmp_path: Path
) -> None:
    folder = checkpoint(tmp_path, 2, noted=False)
    torch.save({"state": [torch.ones(2), Calls(tmp_path)]}, folder / name)
    if noted:  # by somebody who could write it
        manifest.write(folder, step=2)
    assert checkpoints.newest(tmp_path).torn == (
        f"{folder}: {name} holds calls of posix.system, which are never run",
    )
    assert not (tmp_path / "run").exists()
    torch.load(folder / name, weights_only=False)
    assert (tmp_path / "run").exists()  # it would have been


def test_arrays_in_random_states_are_no_calls(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, 2, noted=False)
    states = {"numpy": np.random.get_state(), "cpu": torch.get_rng_state()}
    torch.save(states, folder / "rng_state.pth")
    assert checkpoints.newest(tmp_path).folder == str(folder)


def test_nothing_else_in_the_folder_is_taken_for_a_checkpoint(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path, 2)
    (tmp_path / "checkpoint-final").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    checkpoint(tmp_path / "_saving", 9)
    assert checkpoints.newest(tmp_path) == checkpoints.Found(str(whole))
    assert checkpoints.newest(tmp_path / "nowhere") == checkpoints.Found(None)


def test_a_run_that_saves_models_only_goes_on_and_it_is_refused_elsewhere(tmp_path: Path) -> None:
    only = checkpoint(tmp_path, 2, noted=False)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (only / name).unlink()
    assert checkpoints.newest(tmp_path, only_model=True).folder == str(only)
    assert checkpoints.newest(tmp_path).torn == (f"{only}: optimizer.pt is missing",)


def test_pieces_of_deepspeed_and_fsdp_are_whole_without_an_optimizer_file(tmp_path: Path) -> None:
    for step, piece in ((2, "global_step2"), (3, "pytorch_model_fsdp_0")):
        folder = checkpoint(tmp_path, step, noted=False)
        (folder / piece).mkdir()
        for name in ("model.safetensors", "optimizer.pt", "scheduler.pt"):
            (folder / name).unlink()
        assert checkpoints.newest(tmp_path) == checkpoints.Found(str(folder))


def test_the_command_line_says_what_it_passes_over_and_names_whole_ones_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = checkpoint(tmp_path, 2)
    torn = checkpoint(tmp_path, 4, whole=False)
    config = SimpleNamespace(
        resume_from_checkpoint="true", output_dir=str(tmp_path), save_only_model=False
    )
    with caplog.at_level(logging.WARNING, "trl_deepseek"):
        assert running.checkpoint_to_resume(config) == str(whole)
    assert caplog.messages == [
        "passed over, since a save was cut short or files have changed:\n"
        f"  {torn}: optimizer.pt is missing"
    ]
    assert running.saved_checkpoint(str(tmp_path)) == (
        f"the last checkpoint is {whole}; go on with --resume_from_checkpoint {whole}"
    )
    shutil.rmtree(whole)
    with pytest.raises(ConfigError) as refused:
        running.checkpoint_to_resume(config)
    assert str(refused.value) == (
        f"--resume_from_checkpoint true: no whole checkpoint in the output folder '{tmp_path}'\n"
        "  passed over, since a save was cut short or files have changed:\n"
        f"  {torn}: optimizer.pt is missing\n"
        "  leave the option out to begin anew; what is there is moved with --overwrite_output_dir"
    )
    assert running.saved_checkpoint(str(tmp_path)) == "no checkpoint had been saved yet"


def test_retention_keeps_the_one_just_written_and_the_best_whatever_lies_beside(
    tmp_path: Path,
) -> None:
    names = {step: checkpoint(tmp_path, step, whole=step != 90) for step in (2, 4, 6, 90)}
    for age, step in enumerate((90, 2, 4, 6)):  # the torn one is of an earlier run
        os.utime(names[step], (age, age))
    rotating.rotate(tmp_path, 2, {names[6], names[2]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-6"]
    rotating.rotate(tmp_path, None, {names[6]})
    rotating.rotate(tmp_path, 1, {names[6]})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-6"]


def test_a_kill_while_a_model_is_replaced_is_seen_and_the_next_save_finishes_it(
    tmp_path: Path, instants: Callable[..., Any]
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    former = {
        "config.json": "1",
        "model-00001-of-00002.safetensors": "1",
        "model.safetensors.index.json": "1",
        "tokenizer.json": "1",
        "README.md": "card",
        "notes.txt": "the user's",
    }
    for name, text in former.items():
        (folder / name).write_text(text)
    names = ("config.json", "model.safetensors", "tokenizer.json")
    with instants(folder, tmp_path / "killed") as taken:
        aside = writing.begin_model(folder)
        for name in names:
            (aside / name).write_text("2")
        writing.publish_model(folder)

    def texts(of: Path) -> dict[str, str]:
        return {path.name: path.read_text() for path in of.iterdir() if path.is_file()}

    after = texts(folder)
    assert after == {**dict.fromkeys(names, "2"), "README.md": "card", "notes.txt": "the user's"}
    halves = [copy for copy in taken if texts(copy) not in (former, after)]
    assert len(halves) >= 3
    for copy in taken:
        assert writing.is_half_moved(copy) or copy not in halves
        half = writing.is_half_moved(copy)
        writing.clear(copy)
        assert texts(copy) == (after if half else texts(copy))
        assert texts(copy) in (former, after)
        assert not (copy / "_saving").exists()


def test_a_checkpoint_that_cannot_be_read_now_is_not_said_to_be_absent(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 2)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        said, nothing = (running.saved_checkpoint(str(tmp_path / name)) for name in ("", "none"))
        with pytest.raises(RunError) as ended, room.explained(str(tmp_path)):
            (tmp_path / "log.jsonl").open("w")
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))  # the folder can be listed
        few = running.saved_checkpoint(str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert said == f"checkpoints cannot be read now: {tmp_path}: Too many open files"
    assert str(ended.value) == (
        f"'{tmp_path}' cannot be written: Too many open files ({tmp_path / 'log.jsonl'})\n"
        f"  {said}; allow more open files (ulimit -n) and go on with --resume_from_checkpoint true"
    )
    assert few == f"checkpoints cannot be read now: {path}: Too many open files"
    assert nothing == "no checkpoint had been saved yet"
    assert running.saved_checkpoint(str(tmp_path)).startswith(f"the last checkpoint is {path};")
