"""An output folder that holds a run, or a model that the run reads, is not written into unasked."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek import SFTConfig, SFTTrainer
from trl_deepseek.cli.main import main
from trl_deepseek.trainers import output_folder

Words = Callable[..., list[str]]
BEGINS_ANEW = "--overwrite_output_dir begins anew and moves what is there into replaced-N\n"


@pytest.fixture
def trained(folder: Path, words: Words) -> Path:
    """A folder in which a run of one step has ended."""
    assert main(words("sft", max_steps=1)) == 0
    return folder / "out"


def last(error: str, command: str = "sft") -> str:
    return error[error.rindex(f"trl-deepseek {command}: ") :]


@pytest.mark.usefixtures("trained")
def test_a_folder_with_a_run_is_refused_until_it_is_to_be_overwritten(
    words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    holds = "output_dir: 'out' holds 1 checkpoint and a model"
    assert main(words("sft", max_steps=1)) == 2
    assert last(capsys.readouterr().err) == (
        f"trl-deepseek sft: {holds} of this run\n  --resume_from_checkpoint true goes on from the "
        f"last checkpoint, {BEGINS_ANEW}"
    )
    assert main(words("sft", max_steps=1, learning_rate=1e-3)) == 2
    assert last(capsys.readouterr().err) == (
        f"trl-deepseek sft: {holds} of another run:\n  learning_rate: 2e-05 -> 0.001\n"
        f"  name another folder, or {BEGINS_ANEW}"
    )
    assert main(words("dpo", max_steps=1)) == 2
    assert f"{holds} of another run:\n  trainer: SFT -> DPO\n" in capsys.readouterr().err
    resumed = words("dpo", max_steps=1, resume_from_checkpoint="true")
    assert main(resumed) == 2
    assert f"{holds} of another run:\n  trainer: SFT -> DPO\n" in capsys.readouterr().err
    both = words("sft", "--overwrite_output_dir", max_steps=1, resume_from_checkpoint="true")
    assert main(both) == 2
    assert "contradict each other: out/checkpoint-1 is in 'out'" in capsys.readouterr().err

    before = Path("out/checkpoint-1/trainer_state.json").read_bytes()
    assert main(words("dpo", "--overwrite_output_dir", max_steps=1)) == 0
    assert "its checkpoints and records are now in out/replaced-1\n" in capsys.readouterr().err
    assert Path("out/replaced-1/checkpoint-1/trainer_state.json").read_bytes() == before
    assert json.loads(Path("out/replaced-1/run.json").read_text())["trainer"] == "SFT"
    assert json.loads(Path("out/run.json").read_text())["trainer"] == "DPO"
    assert Path("out/checkpoint-1").is_dir()


def test_the_folder_of_the_start_model_is_refused_until_it_is_to_be_overwritten(
    trained: Path, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (trained / "checkpoint-1").iterdir():
        path.unlink()
    (trained / "checkpoint-1").rmdir()
    start = words("sft", model_name_or_path="out", max_steps=1, learning_rate=1e-2)
    before = (trained / "model.safetensors").read_bytes()
    assert main(start) == 2
    assert "output_dir: 'out' is the folder of a model that this run reads\n" in (
        capsys.readouterr().err
    )
    assert (trained / "model.safetensors").read_bytes() == before
    assert main([*start, "--overwrite_output_dir"]) == 0
    assert (trained / "model.safetensors").read_bytes() != before


@pytest.mark.usefixtures("trained")
def test_a_checkpoint_that_the_run_starts_from_is_not_moved(
    words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    start = words("sft", "--overwrite_output_dir", model_name_or_path="out/checkpoint-1")
    assert main(start) == 2
    assert "the run reads out/checkpoint-1, which --overwrite_output_dir would move" in (
        capsys.readouterr().err
    )


def test_a_model_that_no_run_has_noted_is_refused_and_what_failed_before_its_first_save_is_not(
    folder: Path, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "run.json").write_text('{"trainer": "GRPO"}')
    assert main(words("sft", max_steps=1, save_strategy="no")) == 0
    assert main(words("sft", max_steps=1, save_strategy="no")) == 0  # the same, made again
    (folder / "out" / "run.json").unlink()
    assert main(words("sft", max_steps=1)) == 2
    assert "'out' holds a model of a run that left no record of how it was made" in (
        capsys.readouterr().err
    )


@pytest.mark.usefixtures("trained")
def test_from_python_it_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    rows: Any = [{"text": "1+1=2"}] * 4
    from datasets import Dataset

    args = SFTConfig(output_dir="out", max_steps=1, report_to="none", save_strategy="no")
    trainer = SFTTrainer("tiny-deepseek-llm", args, train_dataset=Dataset.from_list(rows))
    with caplog.at_level(logging.WARNING, "trl_deepseek"):
        trainer.train()
    (said,) = [record.message for record in caplog.records if "output_dir" in record.message]
    assert said.startswith(
        "output_dir: 'out' holds 1 checkpoint and a model of another run:\n  the training data\n"
    )
    assert Path("out/checkpoint-1").is_dir()


def test_a_folder_in_which_another_run_is_writing_is_refused(
    words: Callable[..., list[str]], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with output_folder.alone_in(folder / "out"):
        assert main(words("sft")) == 2
    assert capsys.readouterr().err.endswith(
        "trl-deepseek sft: output_dir: another run is writing in 'out'\n"
        "  wait until it has ended, or name another folder\n"
    )
    assert not list((folder / "out").iterdir())
    assert main(words("sft", max_steps=1)) == 0
