"""docs/choosing.md says what the registry and the ranges say."""

from __future__ import annotations

import re
from pathlib import Path

from trl_deepseek import load_registry
from trl_deepseek.trainers import usual

REGISTRY = load_registry()


def test_the_table_of_presets_is_the_registry(repository: Path) -> None:
    page = (repository / "docs/choosing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.-]+)` \| `(\w+)` \| (.*) \|$", page, re.MULTILINE)
    presets = REGISTRY.presets.items()
    assert sorted(rows) == sorted((n, p.command, p.description) for n, p in presets)


def test_the_ranges_of_the_page_are_those_that_are_warned_of(repository: Path) -> None:
    page = (repository / "docs/choosing.md").read_text(encoding="utf-8")
    sft, dpo = page.partition("\nSFT:\n")[2].split("\nDPO:\n")
    loss = REGISTRY.losses["dpo"].function.usual  # type: ignore[attr-defined]
    noise = REGISTRY.noises["neftune"].usual  # type: ignore[attr-defined]
    ranges = (
        (sft, "learning rate", usual.SFT["learning_rate"]),
        (sft, "epochs", usual.SFT["num_train_epochs"]),
        (sft, "rows per step", usual.SFT["batch_size"]),
        (sft, "LoRA rank", usual.LORA["lora_r"]),
        (sft, "LoRA alpha", usual.LORA["lora_alpha"]),
        (sft, "NEFTune alpha", noise["alpha"]),
        (dpo, "beta", loss["beta"]),
        (dpo, "learning rate", usual.DPO["learning_rate"]),
        (dpo, "epochs", usual.DPO["num_train_epochs"]),
        (dpo, "label smoothing", loss["label_smoothing"]),
    )
    for table, name, range_ in ranges:
        found = re.search(rf"^\| {name} \| (\S+) to ([^\s;]+)", table, re.MULTILINE)
        assert found is not None, name
        assert (float(found[1]), float(found[2])) == (range_.low, range_.high), name
