from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek.cli.parser import Parser
from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs.options import ModelArguments, add_dataclasses, build_dataclasses


@dataclass
class Options:
    learning_rate: float = 1e-4
    steps: int = 3
    reward_funcs: list[str] | None = None
    shuffle: bool = True
    model_init_kwargs: dict[str, Any] | str | None = field(default=None)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError("steps must not be negative")


@pytest.fixture
def parser() -> Parser:
    parser = Parser(prog="trl-deepseek try")
    add_dataclasses(parser, [Options])
    parser.add_argument("--config")
    parser.add_argument("--json", action="store_true")
    return parser


def parse(parser: Parser, *argv: str) -> argparse.Namespace:
    namespace: argparse.Namespace = parser.parse_args(list(argv))
    return namespace


def options(parser: Parser, *argv: str) -> Options:
    (built,) = build_dataclasses(parse(parser, *argv), [Options])
    assert isinstance(built, Options)
    return built


def test_yaml_and_flags_mean_the_same_and_flags_win(parser: Parser, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "learning_rate: 1.0e-5\nsteps: 7\nreward_funcs: [exact_match, a.py:f]\nshuffle: false\n"
        "json: true\n"
    )
    assert options(parser, "--config", str(file), "--steps", "9") == Options(
        1e-5, 9, ["exact_match", "a.py:f"], False
    )
    assert options(parser, "--steps", "9", f"--config={file}").steps == 9
    assert parse(parser, "--config", str(file)).json is True


def test_what_was_given_is_known_apart_from_defaults(parser: Parser, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("steps: 3\n")
    assert {"steps", "learning_rate"} <= parse(
        parser, "--config", str(file), "--learning_rate=1e-4"
    ).given
    assert "shuffle" not in parse(parser, "--steps", "3").given


def test_the_env_block_of_yaml_is_exported(
    parser: Parser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRY_PROJECT", "before")
    file = tmp_path / "run.yaml"
    file.write_text("env:\n  TRY_PROJECT: after\n")
    parse(parser, "--config", str(file))
    import os

    assert os.environ["TRY_PROJECT"] == "after"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--lerning_rate", "1"],
            "unknown option --lerning_rate (did you mean '--learning_rate'?)",
        ),
        (["--learn", "1"], "unknown option --learn"),
        (["word"], "unexpected argument 'word'"),
        (
            ["--steps", "many"],
            "steps takes a whole number, not 'many'",
        ),
        (["--steps", "-1"], "steps must not be negative"),
        (["--config"], "--config: expected the path of a YAML file\n"),
        (["--config", "none.yaml"], "config file 'none.yaml' cannot be read: No such file"),
    ],
    ids=["typo", "abbreviation", "word", "type", "refused", "no-file-name", "no-file"],
)
def test_a_wrong_flag_is_one_clear_message(parser: Parser, argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        options(parser, *argv)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepps: 3\n", ":1: unknown option 'stepps' (did you mean 'steps'?)"),
        ("steps: [1, 2]\n", ":1: steps takes one value, not a list"),
        ("json: 3\n", ":1: json is on or off: write true or false, not 3"),
        ("- steps\n", " must be a mapping of option names to values"),
        ("steps: [\n", ":2: not valid YAML: expected the node content"),
    ],
    ids=["typo", "list", "switch", "no-mapping", "no-yaml"],
)
def test_a_wrong_yaml_file_is_one_clear_message(
    parser: Parser, tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        options(parser, "--config", str(file))
    assert message in str(caught.value)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["q_proj"], ["q_proj"]),
        (["q_proj", "v_proj"], ["q_proj", "v_proj"]),
        (["all-linear"], "all-linear"),
        ([r".*\.q_proj"], r".*\.q_proj"),
    ],
)
def test_one_layer_to_adapt_is_a_name_and_not_a_pattern(
    given: list[str], meant: list[str] | str
) -> None:
    assert ModelArguments(lora_target_modules=given).lora_target_modules == meant
