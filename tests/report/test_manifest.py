"""``run.json`` says what was run, and a run is repeated by it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from safetensors.torch import load_file

from trl_deepseek import DPOConfig, DPOTrainer
from trl_deepseek.cli.main import main
from trl_deepseek.rollouts import record


def read(folder: Path) -> Any:
    return json.loads((folder / "run.json").read_text())


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


@pytest.mark.usefixtures("place")
def test_it_has_versions_config_data_plugins_template_and_how_it_ended(sft: Path) -> None:
    run = read(sft)
    libraries = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "trl-deepseek")
    assert {name: run["versions"][name] for name in libraries} == {
        name: version(name) for name in libraries
    }
    assert run["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert run["command"] == "sft"
    assert run["config"]["given"] == {
        "model_name_or_path": "tiny-deepseek-llm",
        "dataset_name": "sums.jsonl",
        "max_steps": 2,
        "learning_rate": 1e-3,
        "plugins": ["mine.py"],
        "output_dir": "sft",
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": "none",
        "logging_steps": 1.0,
        "seed": 3,
        "neftune_noise_alpha": 5.0,
    }
    assert run["config"]["default"]["warmup_steps"] == 0
    source = hashlib.sha256(Path("mine.py").read_bytes()).hexdigest()
    assert run["plugins"]["mine"] == {"version": None, "source": source[:16]}
    assert run["plugins"]["deepseek-dpo"]["version"] == f"trl-deepseek {version('trl-deepseek')}"
    assert run["chat_template"]["name"] == "deepseek-llm"
    assert run["datasets"]["train_dataset"]["rows"] == 8
    assert run["seed"] == 3
    (process,) = run["runs"]
    assert process["outcome"] == "finished"
    assert process["started"] <= process["ended"]


def test_the_log_has_every_record_of_the_run(grpo: Path) -> None:
    logs = record.lines(grpo / record.LOG)
    state = json.loads((grpo / "checkpoint-3" / "trainer_state.json").read_text())
    assert logs[:3] == state["log_history"][:3]


@pytest.mark.usefixtures("place")
def test_a_repetition_gives_the_same_weights_to_the_bit(
    sft: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--from_manifest", "sft/run.json", "--output_dir", "again"]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "report: again/report.html"
    before, again = weights(sft), weights(Path("again"))
    assert before.keys() == again.keys()
    assert all((before[name] == again[name]).all() for name in before)
    given = read(Path("again"))["config"]["given"]
    assert given == {**read(sft)["config"]["given"], "output_dir": "again"}


@pytest.mark.usefixtures("place")
def test_it_says_what_has_changed_since(
    sft: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read(sft)
    run["versions"]["trl"] = "1.15.0"
    Path("older.json").write_text(json.dumps(run))
    plugin, rows = Path("mine.py"), Path("sums.jsonl")
    before = plugin.read_text(), rows.read_text()
    plugin.write_text(before[0].replace("% 7", "% 5"))
    rows.write_text(before[1] + '{"prompt": "8+1=", "completion": "9"}\n')
    monkeypatch.setattr("trl_deepseek.jobs.job.Job.build", lambda job: sys.exit(9))
    with pytest.raises(SystemExit):
        main(["run", "--from_manifest", "older.json", "--output_dir", "other"])
    plugin.write_text(before[0])
    rows.write_text(before[1])
    said = capsys.readouterr().err
    assert "what has changed since older.json was written:\n" in said
    for each in ("the training data", "plugin 'mine'", f"trl: 1.15.0 -> {version('trl')}"):
        assert f"\n  {each}\n" in said


def test_from_python_it_tells_what_was_given_and_holds_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_API_KEY", "value-of-the-key")
    monkeypatch.setattr(sys, "orig_argv", ["train.py", "--hub_token", "hf_secret", "--x=y"])
    rows = Dataset.from_list([{"prompt": "1+1=", "chosen": "2", "rejected": "3"}] * 4)
    config = DPOConfig(
        output_dir=str(tmp_path),
        loss_type=["orpo"],
        max_steps=1,
        hub_token="hf_secret",
        run_name="value-of-the-key",
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
    )
    trainer = DPOTrainer("tiny-deepseek-llm", args=config, train_dataset=rows)
    trainer.train()
    trainer.create_model_card()
    run = read(tmp_path)
    named = {"loss_type", "max_steps", "hub_token", "run_name", "report_to", "use_cpu", "bf16"}
    assert set(run["config"]["given"]) == named | {"output_dir", "save_strategy"}
    assert run["command"] is None
    assert run["runs"][0]["command_line"] == ["train.py", "--hub_token", "***", "--x=y"]
    text = (tmp_path / "run.json").read_text()
    assert "hf_secret" not in text
    assert "value-of-the-key" not in text
    page = (tmp_path / "report.html").read_text()
    assert "finished" in page
    assert "hf_secret" not in page
    assert "value-of-the-key" not in page

    card = (tmp_path / "README.md").read_text()
    assert "[None]" not in card
    assert "fine-tuned version of `tiny-deepseek-llm`" in card
    assert "trained with the loss orpo." in card
    assert "trained with DPO" not in card
    assert "Rafailov" not in card  # whose loss it is not
    assert f"in memory, 4 rows, digest `{run['data']}`" in card
    assert f"deepseek-llm, digest `{run['template']}`" in card


@pytest.mark.usefixtures("place")
def test_a_run_that_fails_says_so() -> None:
    Path("bad.py").write_text("def bad(completions, **_):\n    raise ValueError('no')\n")
    words = ["--dataset_name", "sums.jsonl", "--max_steps", "1", "--reward_funcs", "bad.py:bad"]
    words += ["--per_device_train_batch_size", "2", "--num_generations", "2", "--use_cpu", "true"]
    words += ["--max_completion_length", "2", "--output_dir", "failed", "--report_to", "none"]
    assert main(["grpo", "--model_name_or_path", "tiny-deepseek-llm", *words]) == 1
    (process,) = read(Path("failed"))["runs"]
    assert process["outcome"] == "failed"
    assert "ValueError: no" in process["error"]
    assert Path("failed/report.html").is_file()


def test_the_commit_of_the_working_directory_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl_deepseek.trainers import manifest

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert manifest.git() is None
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    Path("a").write_text("1")
    for words in (("init", "-q"), ("add", "a"), (*author, "commit", "-qm", "a")):
        subprocess.run(("git", *words), check=True)
    head = subprocess.run(("git", "rev-parse", "HEAD"), capture_output=True, text=True, check=True)
    assert manifest.git() == {"commit": head.stdout.strip(), "changed": False}
    Path("a").write_text("2")
    assert manifest.git() == {"commit": head.stdout.strip(), "changed": True}


def test_noise_by_transformers_own_option_is_in_manifest_and_card(sft: Path) -> None:
    parts = json.loads((sft / "run.json").read_text())["parts"]
    assert (parts["noise"], parts["noise_alpha"]) == ("neftune", 5.0)
    assert "| embedding noise | `neftune`, alpha 5 |" in (sft / "README.md").read_text()
