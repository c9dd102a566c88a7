"""What follows on a checkpoint, and runs that begin from one."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from trl_deepseek import checkpoints, load_registry, models
from trl_deepseek.cli.main import main
from trl_deepseek.errors import ConfigError, ModelError


def weights(folder: str | Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return dict(load_file(Path(folder) / name))


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_best_and_what_is_pushed_are_checkpoints_that_have_their_name(
    build: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    trainer = build(
        "sft", folder, max_steps=3, save_steps=1, save_total_limit=1, eval_strategy="steps",
        eval_steps=1, load_best_model_at_end=True, metric_for_best_model="score",
        greater_is_better=True, held_out=True,
    )  # fmt: skip
    scores = {1: 1.0, 2: 3.0, 3: 2.0}  # the second is the best
    monkeypatch.setattr(
        trainer, "_evaluate", lambda *_: {"eval_score": scores[trainer.state.global_step]}
    )
    pushed: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        transformers.Trainer,
        "_push_from_checkpoint",
        lambda self, path: pushed.append((path, Path(path, "manifest.json").is_file())),
    )
    trainer.args.push_to_hub = True
    trainer.train()
    best = str(folder / "checkpoint-2")
    assert pushed == [(str(folder / f"checkpoint-{step}"), True) for step in (1, 2, 3)]
    assert trainer.state.best_model_checkpoint == best
    assert json.loads(Path(best, "trainer_state.json").read_text())["best_model_checkpoint"] == best
    # as in transformers, the best is all that is left of a run with a limit of one
    assert [path.name for path in folder.glob("*checkpoint*")] == ["checkpoint-2"]
    assert checkpoints.newest(folder) == checkpoints.Found(best)
    saved = weights(best)
    model = trainer.model.state_dict()
    assert all(torch.equal(model[name], saved[name]) for name in saved)


def test_a_run_that_saves_models_only_says_what_begins_anew(
    build: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build("sft", tmp_path, save_only_model=True, max_steps=2).train()
    assert not list(tmp_path.glob("checkpoint-2/*.pt"))
    with caplog.at_level(logging.WARNING, "trl_deepseek"):
        build("sft", tmp_path, save_only_model=True, max_steps=3).train(resume_from_checkpoint=True)
    assert (
        f"going on from {tmp_path}/checkpoint-2 is not exact: it was saved with save_only_model: "
        "optimizer, scheduler and random states begin anew"
    ) in caplog.messages


def test_a_finished_run_that_is_resumed_makes_no_step_and_ends_in_the_same_model(
    build: Callable[..., Any], tmp_path: Path
) -> None:
    first = build("sft", tmp_path, max_steps=2)
    loss = first.train().training_loss
    first.save_model()
    before = weights(tmp_path)
    again = build("sft", tmp_path, max_steps=2)
    assert again.train(resume_from_checkpoint=True).training_loss == loss
    again.save_model()
    assert again.state.global_step == 2
    assert equal(weights(tmp_path), before)


def test_a_torn_checkpoint_that_is_named_is_refused_and_none_at_all_too(
    build: Callable[..., Any], tmp_path: Path
) -> None:
    trainer = build("sft", tmp_path / "out")
    with pytest.raises(ConfigError) as refused:
        trainer.train(resume_from_checkpoint=True)
    assert str(refused.value) == (
        f"resume_from_checkpoint: no whole checkpoint in '{tmp_path}/out'"
    )
    torn = tmp_path / "checkpoint-7"
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"global_step": 7}')
    with pytest.raises(ConfigError) as refused:
        trainer.train(resume_from_checkpoint=str(torn))
    assert str(refused.value) == (
        f"resume_from_checkpoint: checkpoint '{torn}' is not whole: the weights are missing\n"
        "  take another one"
    )


BASE = [
    "--model_name_or_path", "tiny-deepseek-llm", "--dataset_name", "arithmetic", "--report_to",
    "none", "--chat_template", "role-tokens", "--use_cpu", "--bf16", "false", "--logging_steps",
    "1", "--per_device_train_batch_size", "2",
]  # fmt: skip
LORA = ["--use_peft", "--lora_r", "4"]


@pytest.mark.parametrize(
    "lora",
    [
        pytest.param(False, id="full"),
        pytest.param(True, id="adapter", marks=pytest.mark.matrix),
    ],
)
def test_a_fresh_run_begins_with_a_checkpoints_weights_and_says_so(
    lora: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["sft", *BASE, *(LORA if lora else [])]
    assert main([*words, "--output_dir", "a", "--max_steps", "1", "--save_steps", "1",
                 "--learning_rate", "0.1"]) == 0  # fmt: skip
    start = "a/checkpoint-1"
    fork = [*words, "--output_dir", "b", "--max_steps", "1", "--learning_rate", "0",
            "--init_from_checkpoint", start]  # fmt: skip
    capsys.readouterr()
    assert main(fork) == 0
    what = "adapter" if lora else "weights"
    assert f"trl-deepseek sft: a fresh run from the {what} of {start}\n" in capsys.readouterr().err
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    assert equal(weights("b", name), weights(start, name))
    state = json.loads(Path("b/checkpoint-1/trainer_state.json").read_text())
    assert state["global_step"] == 1

    assert main([*fork, "--resume_from_checkpoint", "true"]) == 2
    instead = "" if lora else f", with model_name_or_path {start} in its place"
    assert capsys.readouterr().err == (
        "trl-deepseek sft: init_from_checkpoint begins a fresh run and resume_from_checkpoint goes "
        "on with one\n"
        f"  to go on with a run that began so, leave init_from_checkpoint out{instead}\n"
    )
    if not lora:
        return
    assert main([*fork, "--lora_r", "8"]) == 2
    assert capsys.readouterr().err == (
        f"trl-deepseek sft: init_from_checkpoint: the adapter in '{start}' is another than the "
        "run's: r is 4 there and 8 here\n"
    )
    assert main(["sft", *BASE, "--output_dir", "c", "--init_from_checkpoint", start]) == 2
    assert capsys.readouterr().err == (
        f"trl-deepseek sft: init_from_checkpoint: '{start}' holds an adapter, and the run trains "
        "all weights\n"
        "  add use_peft or quantization with the same rank, or merge it: trl-deepseek merge\n"
    )
    (Path(start) / name).unlink()
    assert main(fork) == 2
    assert capsys.readouterr().err == (
        f"trl-deepseek sft: init_from_checkpoint: checkpoint '{start}' is not whole: {name} is "
        "missing\n  take another one\n"
    )


def test_a_model_in_memory_does_not_go_with_a_checkpoint_to_begin_from(
    build: Callable[..., Any], tmp_path: Path
) -> None:
    trainer = build("sft", tmp_path, max_steps=1, save_steps=1)
    trainer.train()
    trainer.args.init_from_checkpoint = str(tmp_path / "checkpoint-1")
    with pytest.raises(ConfigError, match="goes with a model that is named"):
        type(trainer).check(trainer.model, trainer.args, trainer.inputs.train_dataset)


def test_a_model_folder_whose_save_was_cut_short_is_refused(
    tmp_path: Path,
) -> None:
    (tmp_path / "_saving" / "moving").mkdir(parents=True)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError) as refused:
        models.check(str(tmp_path), load_registry())
    assert str(refused.value) == (
        f"model folder '{tmp_path}' is partly a former model: the save of the last one was cut "
        "short\n  run what saved it again, with --resume_from_checkpoint true"
    )
