from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.cli.main import main
from trl_deepseek.quickstart import job

SMALL = {
    "SFT_STEPS": 5,
    "GRPO_STEPS": 2,
    "DEMONSTRATIONS": 640,
    "EVERY": {"sft": 2, "grpo": 1},
    "CURVE_QUESTIONS": 8,
    "QUESTIONS": 16,
    "MAX_COMPLETION_LENGTH": 8,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same job with fewer steps; what it teaches is shown by the job itself, not here."""
    for name, value in SMALL.items():
        monkeypatch.setattr(job, name, value)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_job_ends_with_figures_a_picture_and_a_model_that_plain_transformers_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert main(["quickstart", "--seed", "1", "--output_dir", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {"stages", "seconds", "output_dir"}
    assert [stage["name"] for stage in printed["stages"]] == ["sft", "grpo"]
    for stage in printed["stages"]:
        assert 0 <= stage["exact_match"] <= 1
        assert 0 <= stage["thinks"] <= 1
        assert 0 < stage["mean_length"] <= 8
    assert printed["output_dir"] == str(out)
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "result.json").read_text())["stages"] == printed["stages"]

    from transformers import pipeline

    answer = pipeline("text-generation", str(out / "grpo"))
    assert not re.search(r"{%-? *generation", answer.tokenizer.chat_template)
    reply: Any = answer([{"role": "user", "content": "56+37"}], max_new_tokens=4)
    assert reply[0]["generated_text"][-1]["role"] == "assistant"

    assert main(["quickstart", "--output_dir", str(out)]) == 2
    assert "is not empty; nothing is overwritten" in capsys.readouterr().err


@pytest.mark.usefixtures("small")
def test_an_interrupted_job_names_what_was_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = job.Quickstart._stage

    def interrupted(self: job.Quickstart, name: str, trainer: Any) -> Any:
        if name == "grpo":
            raise KeyboardInterrupt
        return stage(self, name, trainer)

    monkeypatch.setattr(job.Quickstart, "_stage", interrupted)
    out = tmp_path / "run"
    assert main(["quickstart", "--output_dir", str(out)]) == 130
    assert capsys.readouterr().err.endswith(
        f"trl-deepseek quickstart: interrupted; saved so far: {out / 'sft'}; "
        "`trl-deepseek quickstart` begins anew, in another folder\n"
    )
    assert (out / "sft" / "model.safetensors").is_file()


def test_a_folder_that_an_interrupted_run_left_empty_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "run" / "sft").mkdir(parents=True)
    job.Quickstart(tmp_path / "run", 0, lambda *_: None)
