"""The four losses of the project's name teach the tiny model to prefer, and so does the example."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from trl_deepseek.cli.main import main
from trl_deepseek.sources import import_file

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.matrix
@pytest.mark.slow
def test_each_named_loss_makes_the_held_out_chosen_answers_gain_on_the_rejected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    example = import_file(EXAMPLES / "swap_losses.py")
    argv = ["swap_losses.py", "--json", "--sft_steps", "30", "--steps", "10"]
    monkeypatch.setattr(sys, "argv", [*argv, "--losses", "dpo", "ipo", "kto", "orpo"])
    assert example.main() == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["loss"] for row in rows] == ["dpo", "ipo", "kto", "orpo"]
    for row in rows:
        assert row["accuracy"] >= 0.9  # 0.5 where nothing has been learnt
        assert row["margin"] > 0
        assert row["seconds"] > 0


def test_the_ten_line_loss_is_shown_and_trains_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = ("--plugins", str(EXAMPLES / "custom_loss.py"))
    assert main(["plugins", "show", "square_hinge", *plugin]) == 0
    shown = capsys.readouterr().out
    assert "max(0, target - Δ)²" in shown
    assert "target=1.0" in shown
    options = {
        "loss_type": "square_hinge",
        "loss_kwargs": '{"target": 2.0}',
        "model_name_or_path": "tiny-deepseek-llm",
        "dataset_name": "arithmetic",
        "chat_template": "deepseek-v3",
        "max_steps": 1,
        "logging_steps": 1,
        "per_device_train_batch_size": 2,
        "output_dir": tmp_path,
        "report_to": "none",
    }
    flags = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    assert main(["preference", *plugin, *flags]) == 0
    state = json.loads((tmp_path / "checkpoint-1" / "trainer_state.json").read_text())
    assert state["log_history"][0]["loss"] == pytest.approx(4.0)  # (2 - 0)² at the start
