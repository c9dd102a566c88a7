"""The plugins of docs/losses.md and docs/reward_models.md pass the checks of plugins."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from trl_deepseek import PairLogps, PairRewards, UnpairedLogps
from trl_deepseek.plugin_kit import conformance

PAGES = ("losses.md", "reward_models.md")


def blocks(repository: Path, page: str) -> list[str]:
    text = (repository / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_the_loss_of_ones_own_passes_every_check(
    page: str, repository: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(blocks(repository, page)[1])
    checks = conformance.check(str(file))
    assert "gives one finite loss per sequence, with a gradient" in {c.claim for c in checks}
    assert [check for check in checks if check.problem] == []


@pytest.mark.parametrize("seen", [PairLogps, UnpairedLogps, PairRewards])
def test_every_field_that_a_loss_sees_is_in_the_docs(seen: Any, repository: Path) -> None:
    text = "".join((repository / "docs" / page).read_text(encoding="utf-8") for page in PAGES)
    for field in dataclasses.fields(seen):
        assert f"`{field.name}`" in text


def check_of(tmp_path: Path, body: str) -> str:
    file = tmp_path / "mine.py"
    file.write_text(
        "from trl_deepseek import hookimpl\n"
        f"def mine(rewards):\n    '''Mine.'''\n    return {body}\n"
        "@hookimpl\ndef register_losses(register):\n    register('mine', mine, data='rewards')\n"
    )
    (problem,) = [check.problem for check in conformance.check(str(file)) if check.problem]
    return str(problem)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("(rewards.chosen - rewards.rejected).mean()", "not one loss per sequence"),
        ("rewards.chosen / 0", "is not finite"),
        ("rewards.chosen.detach()", "has no gradient"),
        ("rewards.rejected * 1.0", "does not depend on 'chosen'"),
        ("rewards.chose", "no attribute 'chose'"),
        ("(rewards.chosen * 0).sqrt()", "its gradient is"),
    ],
)
def test_a_faulty_loss_of_a_reward_model_is_found(body: str, words: str, tmp_path: Path) -> None:
    assert words in check_of(tmp_path, body)
