"""The commands in docs/command_line.md run, on a few rows and for one step."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from trl_deepseek.cli.main import main

CHAT = {"messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}]}
PAIR = {"prompt": "1+1=", "chosen": "2", "rejected": "3"}
RUN = (
    "model_name_or_path: tiny-deepseek-llm\ndataset_name: chats.jsonl\nassistant_only_loss: true\n"
)
RECIPE = (
    "output_dir: chain\nmodel_name_or_path: tiny-deepseek-llm\nreport_to: none\n"
    "stages:\n  - command: sft\n    dataset_name: chats.jsonl\n"
)


def test_the_commands_of_the_page_run(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (repository / "docs" / "command_line.md").read_text(encoding="utf-8")
    commands = [
        line.removeprefix("trl-deepseek ")
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(commands) >= 7
    monkeypatch.chdir(tmp_path)
    for name, row in (("chats", CHAT), ("prefs", PAIR)):
        Path(f"{name}.jsonl").write_text((json.dumps(row) + "\n") * 8)
    Path("run.yaml").write_text(RUN + "report_to: none\n")
    Path("recipe.yaml").write_text(RECIPE)
    for command in commands:
        words = shlex.split(command)
        trains = words[0] in ("sft", "orpo")
        bounds = ["--max_steps", "1", "--report_to", "none", "--save_strategy", "no"]
        assert main([*words, *(bounds if trains else [])]) == 0, command
    assert "no problems" in capsys.readouterr().out
