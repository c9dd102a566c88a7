"""What the dispatcher does with commands of TRL and with what nobody foresaw."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from trl_deepseek import environment, load_registry
from trl_deepseek.cli import plugins
from trl_deepseek.cli.main import main
from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs import ALIASES, datasets
from trl_deepseek.jobs.options import DataArguments


def test_an_unforeseen_exception_is_one_line_and_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(args: object) -> int:
        raise KeyError("nobody")

    monkeypatch.setattr(plugins, "run", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["plugins"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "trl-deepseek plugins: KeyError: 'nobody'"
    (file,) = tmp_path.glob("trl-deepseek-*.txt")
    assert second == f"  the traceback is in {file}"
    assert "in broken" in file.read_text()


@pytest.mark.parametrize("name", ALIASES)
def test_a_command_of_trl_is_the_name_of_a_registered_loss(name: str) -> None:
    assert name in load_registry().losses


def test_a_mixture_with_renamed_columns_is_loaded(tmp_path: Path) -> None:
    for name in ("a", "b"):
        row = {"question": name, "completion": "c"}
        (tmp_path / f"{name}.jsonl").write_text((json.dumps(row) + "\n") * 4)
    options = DataArguments(
        datasets=[json.dumps({"path": str(tmp_path / f"{name}.jsonl")}) for name in "ab"],
        columns=["question=prompt"],
    )
    config = SimpleNamespace(eval_strategy="no", seed=0)
    train, held_out = datasets.load(options, config, load_registry(), "demonstrations")
    assert train["prompt"] == ["a"] * 4 + ["b"] * 4
    assert held_out is None


def test_an_output_folder_is_tried_and_nothing_is_left(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as several:  # as the processes of one run
        tries = [several.submit(environment.check_output_dir, tmp_path / "a/b") for _ in range(200)]
    assert [each.exception() for each in tries] == [None] * 200
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be a folder: .* is a file"):
        environment.check_output_dir(tmp_path / "file" / "run")
