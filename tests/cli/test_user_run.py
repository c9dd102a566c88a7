"""A user's own files and model folder through the two training commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.cli.main import main

REWARDS = """
import os, signal
from pathlib import Path

def short(completions, **_):
    return [float(len(completion[-1]["content"]) <= 20) for completion in completions]

def interrupting(completions, **_):
    calls = Path(__file__).with_name("calls")
    calls.write_text((calls.read_text() if calls.exists() else "") + "x")
    if len(calls.read_text()) == 3:
        os.kill(os.getpid(), signal.SIGINT)
    return [0.5] * len(completions)
"""

PLUGIN = """
from trl_deepseek import hookimpl

def digits(completions, **_):
    return [float(completion[-1]["content"].isdigit()) for completion in completions]

@hookimpl
def register_rewards(register):
    register("digits", digits)
"""

RUN = """
max_steps: 2
per_device_train_batch_size: 4
num_generations: 4
max_completion_length: 8
report_to: none
logging_steps: 1
chat_template: deepseek-r1
reward_funcs: [exact_match, my_rewards.py:short, digits]
plugins: [my_plugin.py]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    (tmp_path / "my_plugin.py").write_text(PLUGIN)
    (tmp_path / "run.yaml").write_text(RUN)
    chats = [
        {"messages": [{"role": "user", "content": f"1+{n}"}, {"role": "assistant", "content": "2"}]}
        for n in range(8)
    ]
    prompts = [
        {"prompt": [{"role": "user", "content": f"1+{n}"}], "solution": str(1 + n)}
        for n in range(8)
    ]
    for name, rows in (("chats", chats), ("prompts", prompts)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def flags(**options: object) -> list[str]:
    return [str(word) for name, value in options.items() for word in (f"--{name}", value)]


@pytest.mark.slow
def test_sft_then_grpo_on_files_with_rewards_from_everywhere(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = {"report_to": "none"}
    sft = flags(
        model_name_or_path="tiny-deepseek-llm",
        dataset_name="chats.jsonl",
        chat_template="deepseek-r1",
        max_steps=1,
        output_dir="sft",
        **common,
    )
    assert main(["sft", *sft]) == 0
    assert "model and tokenizer saved in sft" in capsys.readouterr().out

    grpo = flags(
        model_name_or_path="sft", dataset_name="prompts.jsonl", config="run.yaml", output_dir="grpo"
    )
    assert main(["grpo", *grpo, "--json", "--max_steps", "1"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["output_dir"] == "grpo"
    state = json.loads((folder / "grpo/checkpoint-1/trainer_state.json").read_text())
    for name in ("exact_match", "short", "digits"):
        assert 0 <= state["log_history"][0][f"rewards/{name}/mean"] <= 1

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained("grpo")
    AutoModelForCausalLM.from_pretrained("grpo")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1+1"}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<｜begin▁of▁sentence｜><｜User｜>1+1<｜Assistant｜><think>\n"


@pytest.mark.slow
def test_ctrl_c_names_the_last_checkpoint_and_the_run_goes_on_from_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {
        "model_name_or_path": "tiny-deepseek-llm",
        "dataset_name": "prompts.jsonl",
        "config": "run.yaml",
        "reward_funcs": "my_rewards.py:interrupting",
        "max_steps": 4,
        "save_steps": 1,
        "steps_per_generation": 1,
        "output_dir": "out",
    }
    assert main(["grpo", *flags(**options)]) == 130
    checkpoint = str(Path("out") / "checkpoint-3")  # of the step in which it came
    assert capsys.readouterr().err.endswith(
        f"trl-deepseek grpo: interrupted; the last checkpoint is {checkpoint}; "
        f"go on with --resume_from_checkpoint {checkpoint}\n"
    )
    assert main(["grpo", *flags(**options, resume_from_checkpoint="true")]) == 0
    state = json.loads((folder / "out/checkpoint-4/trainer_state.json").read_text())
    assert [log["step"] for log in state["log_history"] if "reward" in log] == [1, 2, 3, 4]
