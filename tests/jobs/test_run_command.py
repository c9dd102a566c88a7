"""``trl-deepseek run`` on the embedded model, stage by stage in processes of their own."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from trl_deepseek.cli.main import main
from trl_deepseek.rollouts.history import read

SHARED: dict[str, Any] = {
    "output_dir": "out",
    "model_name_or_path": "tiny-deepseek-llm",
    "chat_template": "deepseek-v3",
    "dataset_name": "arithmetic",
    "max_steps": 2,
    "save_steps": 1,
    "report_to": "none",
}
GRPO: dict[str, Any] = {
    "command": "grpo",
    "reward_funcs": ["exact_match"],
    "max_completion_length": 4,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
}
REWARDS = """
import os, signal, time
from pathlib import Path
from trl_deepseek import stopping

def once_interrupted(completions, **_):
    calls = Path(__file__).with_name("calls")
    calls.write_text((calls.read_text() if calls.exists() else "") + "x")
    if len(calls.read_text()) == 2:
        os.kill(os.getppid(), signal.SIGTERM)
        while stopping.requested() is None:
            time.sleep(0.01)
    return [0.5] * len(completions)

def broken(completions, **_):
    raise ValueError("no")
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    Path("my_rewards.py").write_text(REWARDS)

    def recipe(*stages: Any, **more: Any) -> str:
        Path("recipe.yaml").write_text(yaml.safe_dump({**SHARED, **more, "stages": list(stages)}))
        return "recipe.yaml"

    return recipe


@pytest.mark.matrix
@pytest.mark.slow
def test_stages_chain_and_are_run_once(write: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scored = {**GRPO, "reward_funcs": ["exact_match", "model:{reward}"]}
    merge = {"command": "merge", "dtype": "float32"}  # so few steps are lost in 16 bits
    file = write({"command": "sft", "qlora": True}, merge, {"command": "reward"}, scored)
    assert main(["run", file, "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert list(stages) == ["sft", "merge", "reward", "grpo"]
    assert stages["sft"]["result"]["output_dir"] == "out/sft"
    assert Path("out/sft/adapter_model.safetensors").is_file()
    for folder in ("merge", "reward", "grpo"):
        assert Path("out", folder, "model.safetensors").is_file()
    scores = [set(row.scores) for row in read("out/grpo")]
    assert scores
    assert all(len(names) == 2 and "exact_match" in names for names in scores)

    before = Path("out/pipeline.json").read_text()
    assert main(["run", file, "--json"]) == 0
    assert capsys.readouterr().err.count("done before") == 4
    assert Path("out/pipeline.json").read_text() == before

    assert main(["run", file, "--restart", "grpo"]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("done before") == 3
    assert "out/grpo" in shown.out


@pytest.mark.matrix
@pytest.mark.slow
def test_an_interrupted_stage_goes_on_from_its_checkpoint(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write({**GRPO, "reward_funcs": ["my_rewards.py:once_interrupted"]}, max_steps=3)
    assert main(["run", file]) == 143
    assert "stage 'grpo' is unfinished; `trl-deepseek run recipe.yaml` goes on with it" in (
        capsys.readouterr().err
    )
    assert main(["run", file]) == 0
    # two calls of the first run, which finished the step of the second, and one of the second run
    assert Path("calls").read_text() == "xxx"


@pytest.mark.slow
def test_a_stage_that_fails_ends_the_recipe_by_name(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write({**GRPO, "reward_funcs": ["my_rewards.py:broken"]}, {"command": "sft"})
    assert main(["run", file]) == 1
    assert "stage 'grpo' ended with exit code 1, see above" in capsys.readouterr().err
    assert not Path("out/sft").exists()


def test_a_row_that_would_be_read_wrongly_is_found_before_the_first_stage(
    write: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    row = {"messages": [{"role": "user", "content": "<｜User｜>"}, {"role": "assistant"}]}
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["run", write({"command": "sft", "dataset_name": "rows.jsonl"})]) == 2
    error = capfd.readouterr().err
    assert "recipe.yaml:9: stage 'sft': rows.jsonl, row 0: the user text contains" in error
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({**GRPO, "reward_funcs": ["exact_mach"]}, "did you mean 'exact_match'"),
        ({**GRPO, "max_stepz": 3}, "unknown option 'max_stepz' (did you mean 'max_steps'?)"),
        ({**GRPO, "dataset_name": "none.jsonl"}, "data file 'none.jsonl' does not exist"),
        ({"command": "preference", "loss_type": ["dpx"]}, "'dpx'"),
        ({**GRPO, "max_steps": "many"}, "max_steps takes a whole number, not 'many'"),
    ],
)
def test_a_mistake_in_the_last_stage_is_said_before_the_first_begins(
    write: Any, capsys: pytest.CaptureFixture[str], stage: dict[str, Any], said: str
) -> None:
    assert main(["run", write({"command": "sft"}, stage)]) == 2
    error = capsys.readouterr().err
    place = rf"recipe.yaml:\d+: stage '{stage['command']}': "
    assert re.search(rf"{place}.*{re.escape(said)}", error, re.DOTALL)
    assert not Path("out").exists()


def test_a_dry_run_estimates_each_training_stage_from_the_first_model(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write({"command": "sft", "qlora": True}, {"command": "merge"}, GRPO)
    assert main(["run", file, "--dry_run", "--json"]) == 0
    answers = json.loads(capsys.readouterr().out)
    assert list(answers) == ["sft", "grpo"]
    assert answers["sft"]["quantization"] == "qlora"
    assert answers["sft"]["trainable"] < answers["grpo"]["trainable"]
    assert not Path("out").exists()


def test_the_example_is_a_recipe_that_passes_its_checks(
    repository: Path, write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    example = str(repository / "examples" / "recipe.yaml")
    assert main(["run", example, "--dry_run", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["sft", "reward", "dpo", "grpo"]


@pytest.mark.matrix
@pytest.mark.slow
def test_a_launcher_starts_what_trains_and_not_what_merges(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("launch.sh").write_text(f'echo "$@" >> started\nexec {sys.executable} "$@"\n')
    merge = {"command": "merge", "dtype": "float32"}
    file = write({"command": "sft", "use_peft": True}, merge, launcher="no-such-launcher")
    assert main(["run", file, "--launcher", "sh launch.sh"]) == 0
    asked, trained = Path("started").read_text().splitlines()
    assert asked == "-m trl_deepseek.jobs.launching"
    assert trained == "-m trl_deepseek sft --config out/sft.yaml --json"
    assert Path("out/merge/model.safetensors").is_file()


def test_stages_are_checked_for_as_many_processes_as_the_launcher_starts(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("launch.sh").write_text(f'exec env WORLD_SIZE=2 {sys.executable} "$@"\n')
    file = write({**GRPO, "per_device_train_batch_size": 2})
    assert main(["run", file, "--dry_run"]) == 2
    assert "(2) must be divisible by num_generations (4)" in capsys.readouterr().err
    assert main(["run", file, "--dry_run", "--launcher", "sh launch.sh"]) == 0
    assert "the launcher starts 2 processes" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["validate"], ["run", "--dry_run"]], ids=" ".join)
def test_a_launcher_that_waits_for_others_does_not_hold_up_who_only_looks(
    write: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
) -> None:
    monkeypatch.setattr("trl_deepseek.cli.run.LAUNCHER_LIMIT", 0.5)
    mark = f"3600.{os.getpid()}"
    Path("wait.sh").write_text(f"sleep {mark}\n")
    assert main([*command, write(GRPO, launcher="sh wait.sh")]) == 2
    said = capsys.readouterr()
    assert "launcher 'sh wait.sh' has not started its processes within 0.5 seconds" in " ".join(
        (said.out + said.err).split()
    )
    running = psutil.process_iter(["cmdline", "status"])
    left = [one for one in running if mark in (one.info["cmdline"] or ())]
    psutil.wait_procs(left, timeout=60)
    assert not [one for one in left if one.is_running()]


def test_a_recipe_for_two_processes_is_tried_on_batches_as_large(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("launch.sh").write_text(f'exec env WORLD_SIZE=2 {sys.executable} "$@"\n')
    small = {**GRPO, "per_device_train_batch_size": 2, "logging_steps": 1}
    assert main(["validate", write(small, launcher="sh launch.sh"), "--json"]) == 0
    (job,) = json.loads(capsys.readouterr().out)["jobs"]
    assert job["facts"]["batch_sequences"] == 4
    assert not job["warnings"]  # of logging_steps: only the trial does not log


def noted(**more: Any) -> str:
    """A record of one stage."""
    whole: dict[str, Any] = {name: {} for name in ("options", "files", "plugins", "used")}
    return json.dumps({"stages": {"sft": {"command": "sft", "begun": "1", **whole, **more}}})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "out/pipeline.json cannot be read: Expecting value"),
        ("[]", "out/pipeline.json lists no stages\n"),
        ('{"stages": [1]}', "out/pipeline.json lists no stages\n"),
        ('{"stages": {"sft": 3}}', "out/pipeline.json: stage 'sft': command is None\n"),
        ('{"stages": {"sft": {"command": "sft"}}}', "stage 'sft': options is None\n"),
        (noted(seconds="long"), "stage 'sft': seconds is 'long'\n"),
        (noted(seconds=1, result=2), "stage 'sft': result is 2\n"),
        (noted(files=[]), "stage 'sft': files is []\n"),
    ],
)
def test_a_record_of_stages_that_was_edited_is_refused(
    write: Any, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    Path("out").mkdir()
    Path("out/pipeline.json").write_text(text)
    assert main(["run", write({"command": "sft"})]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.endswith(
        "it is written by `trl-deepseek run` alone; to begin anew, remove it and the stages' "
        "folders\n"
    )


@pytest.mark.matrix
@pytest.mark.slow
def test_a_sampling_that_was_edited_is_drawn_anew(
    write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = {"command": "sample", "max_samples": 2, "num_samples": 2, "dataset_name": "arithmetic"}
    shared = {"chat_template": "deepseek-v3", "model_name_or_path": "tiny-deepseek-llm"}

    def recipe(length: int) -> str:
        stage = {**sample, "max_new_tokens": length}
        whole = {"output_dir": "out", **shared, "stages": [stage]}
        Path("recipe.yaml").write_text(yaml.safe_dump(whole))
        return "recipe.yaml"

    def longest() -> set[int]:
        rows = map(json.loads, Path("out/sample/rows.jsonl").read_text().splitlines())
        return {row["sampled"]["max_new_tokens"] for row in rows}

    assert main(["run", recipe(2)]) == 0
    assert main(["validate", recipe(3), "--no_model"]) == 0
    capsys.readouterr()
    assert main(["run", recipe(3)]) == 0
    assert "max_new_tokens was 2, now 3" in capsys.readouterr().err
    assert Path("out/replaced/sample-1/rows.jsonl").is_file()
    assert longest() == {3}
    assert main(["run", recipe(4), "--restart", "sample"]) == 0
    assert longest() == {4}
