"""Numbers that may be None may be null in every process, also behind a command line's parser."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import HfArgumentParser

from trl_deepseek import SFTConfig
from trl_deepseek.errors import ConfigError


def test_a_parser_of_command_lines_does_not_change_what_may_be_none(tmp_path: Path) -> None:
    HfArgumentParser(SFTConfig)  # it writes its own types over those of the fields
    assert SFTConfig(str(tmp_path), max_length=None, report_to="none").max_length is None
    with pytest.raises(ConfigError, match="seed is null"):
        SFTConfig(str(tmp_path), seed=None, report_to="none")
