"""What YAML means: numbers, words and lists where they are meant. Its mistakes: tests/inputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from trl_deepseek import jobs
from trl_deepseek.cli import training
from trl_deepseek.cli.parser import Parser
from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs.options import build_dataclasses


def parser_of(command: str) -> Parser:
    parser = Parser(prog=f"trl-deepseek {command}")
    training.add_arguments(parser, command)
    return parser


def test_yaml_means_numbers_words_and_lists_where_they_are_meant(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(
        "learning_rate: 1e-6\nlr_scheduler_kwargs: {min_lr: 1e-6}\nsave_strategy: no\n"
        "report_to: [none]\nplugins: []\nreward_on_error: -0.00001\nscale_rewards: false\n"
        "max_steps: 1e3\nrun_name: 007\nbf16: no\n"
    )
    args = parser_of("grpo").parse_args(["--config", "run.yaml"])
    (config,) = build_dataclasses(args, [jobs.kind(args.command).OPTIONS[-1]])
    assert config.learning_rate == 1e-6
    assert config.lr_scheduler_kwargs == {"min_lr": 1e-6}
    assert config.save_strategy == "no"
    assert config.report_to == []
    assert config.plugins == []
    assert float(config.reward_on_error) == -1e-5
    assert config.scale_rewards == "none"
    assert config.max_steps == 1000
    assert config.run_name == "007"
    assert config.bf16 is False
    assert {"plugins", "save_strategy"} <= args.given


@pytest.mark.parametrize("word", ["on", "off", "Off"])
def test_on_and_off_are_words_where_an_option_has_them(tmp_path: Path, word: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"prefix_sharing: {word}\nbf16: off\ngradient_checkpointing: on\n")
    args = parser_of("dpo").parse_args(["--config", str(file)])
    assert args.prefix_sharing == word.lower()
    assert (args.bf16, args.gradient_checkpointing) == (False, True)


@pytest.mark.parametrize("word", ["true", "no", "maybe"])
def test_a_word_that_an_option_does_not_have_is_refused(tmp_path: Path, word: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"prefix_sharing: {word}\n")
    with pytest.raises(ConfigError, match=r"run\.yaml:1: --prefix_sharing: invalid choice"):
        parser_of("dpo").parse_args(["--config", str(file)])
