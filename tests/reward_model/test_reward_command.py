"""``trl-deepseek reward``: from a file of pairs to a saved model, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.cli.main import main
from trl_deepseek.rewards.model_reward import load_reward_model

FAST = ["--max_steps", "2", "--per_device_train_batch_size", "2", "--report_to", "none"]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{n}+1"}],
            "chosen": [{"role": "assistant", "content": f"{n + 1}"}],
            "rejected": [{"role": "assistant", "content": f"{n}"}],
            "margin": 0.5,
        }
        for n in range(6)
    ]
    return jsonl(tmp_path / "pairs.jsonl", rows)


def command(data: str, *options: str) -> list[str]:
    return ["reward", "--model_name_or_path", "tiny-deepseek-llm", "--dataset_name", data, *options]


@pytest.mark.parametrize("adapter", [[], ["--use_peft", "--lora_r", "4"]])
def test_a_file_of_pairs_becomes_a_model_that_scores(
    adapter: list[str], data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "rm")
    options = ["--output_dir", output, "--chat_template", "deepseek-v3", "--json", *FAST, *adapter]
    loss = ["--loss_type", "margin", "--loss_kwargs", '{"margin": 0.5}']
    assert main(command(data, *options, *loss)) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["output_dir"] == output
    assert result["metrics"]["train_loss"] > 0
    assert (tmp_path / "rm" / "adapter_config.json").exists() == bool(adapter)
    prompt = [{"role": "user", "content": "2+1"}]
    (score,) = load_reward_model(output)([prompt], [[{"role": "assistant", "content": "3"}]])
    assert isinstance(score, float)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--loss_type", "bradley_tery"], "did you mean 'bradley_terry'?"),
        (["--loss_type", "ipo"], "'ipo' is for `trl-deepseek preference`"),
        (["--loss_kwargs", '{"label_smothing": 0.1}'], "did you mean 'label_smoothing'?"),
        (["--loss_kwargs", '{"label_smoothing": 0.6}'], "label_smoothing = 0.6"),
        (["--center_rewards_coefficient", "-1"], "center_rewards_coefficient is -1"),
        (["--model_name_or_path", "./gone"], "'./gone' does not exist"),
    ],
)
def test_wrong_options_are_one_message_and_exit_code_2(
    options: list[str],
    words: str,
    data: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from trl_deepseek import models

    def load(*_: Any) -> Any:
        raise AssertionError("a model was loaded first")

    monkeypatch.setattr(models, "resolve", load)
    assert main(command(data, *options)) == 2
    message = capsys.readouterr().err
    assert words in message
    assert "Traceback" not in message


def test_rows_without_pairs_are_one_message_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "a", "completion": "b", "label": True}]
    assert main(command(jsonl(tmp_path / "singles.jsonl", rows))) == 2
    message = capsys.readouterr().err
    assert "holds labelled singles" in message
    assert "data with chosen and rejected" in message
    assert "Traceback" not in message
