"""What is unusual is said once, with the usual range and who says so; nothing else is."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from peft import LoraConfig

from trl_deepseek import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
    load_registry,
)
from trl_deepseek.trainers import usual

REGISTRY = load_registry()
CONFIGS = {"sft": SFTConfig, "preference": DPOConfig, "reward": RewardConfig, "grpo": GRPOConfig}
TRAINERS: dict[str, tuple[Any, Any, str, float]] = {
    "sft": (SFTTrainer, SFTConfig, "text", 2e-5),
    "dpo": (DPOTrainer, DPOConfig, "pair", 1e-6),
    "kto": (KTOTrainer, KTOConfig, "pair", 1e-6),
    "reward": (RewardTrainer, RewardConfig, "pair", 6e-6),
    "grpo": (GRPOTrainer, GRPOConfig, "prompt", 2e-6),
}
ASK = [{"role": "user", "content": "1+1"}]
ROWS = {
    "pair": {
        "prompt": ASK,
        "chosen": [{"role": "assistant", "content": "2"}],
        "rejected": [{"role": "assistant", "content": "3"}],
    },
    "text": {"prompt": "1+1=", "completion": "2"},
    "prompt": {"prompt": ASK, "solution": "2"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model in a folder, so that it comes from somewhere."""
    place = tmp_path_factory.mktemp("model")
    for part in REGISTRY.models["tiny-deepseek-llm"]():
        part.save_pretrained(place)
    return str(place)


def told(
    trainer: Any, config: Any, row: str, model: str, caplog: pytest.LogCaptureFixture, **more: Any
) -> list[str]:
    """The warnings about numbers that a trainer's check gives."""
    caplog.clear()
    usual_batch = {} if row == "prompt" else {"per_device_train_batch_size": 4}
    settings = {"output_dir": "unused", "bf16": False, "max_steps": 1, "report_to": "none"}
    args = config(**{**settings, **usual_batch, **more.pop("args", {})})
    trainer.check(model, args, Dataset.from_list([ROWS[row]] * 8), **more)
    found = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    return [message for message in found if "usual" in message]


SFT, ALL = "docs/choosing.md, SFT", " for training all weights"
FORGETS = ": a pretrained model forgets, or diverges"
Case = tuple[str, dict[str, Any], str, str, str]
# trainer, what is given, what is usual, what comes of it, who says so
CASES: list[Case] = [
    ("sft", {"learning_rate": 1e-3}, f"1e-06 to 5e-05 is usual{ALL}", FORGETS, SFT),
    (
        *("sft", {"learning_rate": 1e-9}, f"1e-06 to 5e-05 is usual{ALL}"),
        *(": hardly anything is learned", SFT),
    ),
    (
        *("sft", {"num_train_epochs": 9}, "2 to 5 is usual", ""),
        f"{SFT}; arXiv:2401.02954, section 4, has 2 and 4",
    ),
    ("sft", {"batch_size": 64}, "4 to 32 is usual", "", SFT),
    (
        *("sft", {"noise_alpha": 50, "noise": "neftune"}, "5 to 15 is usual", ""),
        "arXiv:2310.05914, appendix A.1: 5, 10 and 15",
    ),
    (
        *("dpo", {"learning_rate": 5e-5}, f"1e-07 to 5e-06 is usual{ALL}", FORGETS),
        "docs/choosing.md, DPO; arXiv:2401.02954, section 4, has 5e-6",
    ),
    (
        *("dpo", {"num_train_epochs": 9}, "1 to 3 is usual", ": it overfits"),
        "docs/choosing.md, DPO; arXiv:2401.02954, section 4, has 1",
    ),
    (
        *("dpo", {"beta": 5}, "0.01 to 0.5 is usual", ""),
        "docs/choosing.md, DPO; arXiv:2305.18290, appendix B, has 0.1 and 0.5",
    ),
    ("dpo", {"label_smoothing": 0.3}, "0 to 0.1 is usual", "", "docs/choosing.md, DPO"),
    (
        *("kto", {"learning_rate": 1e-4}, f"5e-07 to 5e-06 is usual{ALL}", FORGETS),
        "TRL's page on KTOTrainer, for arXiv:2402.01306",
    ),
    (
        *("reward", {"learning_rate": 1e-4}, f"5e-06 to 1e-05 is usual{ALL}", FORGETS),
        "arXiv:2307.09288, section 3.2.2; arXiv:2501.12948, 3.1, has 6e-6",
    ),
    (
        *("grpo", {"beta": 0.5}, "0 to 0.04 is usual", ": the policy stays at its reference"),
        "arXiv:2503.14476, section 2.3, to arXiv:2402.03300, section 4.2",
    ),
    (
        *("grpo", {"temperature": 0.2}, "0.7 to 1 is usual"),
        ": completions are too much alike to be told apart",
        "arXiv:2501.12948, sections 3.2.2 and 2.1",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{'-'.join(case[1])}")
def test_a_number_out_of_its_range_is_said_once(
    case: Case, folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    kind, given, range_, why, source = case
    trainer, config, row, rate = TRAINERS[kind]
    args = {"learning_rate": rate, **given}
    if "num_train_epochs" in args:
        args["max_steps"] = -1
    if args.pop("batch_size", None):
        args["gradient_accumulation_steps"] = 16
    more: dict[str, Any] = {"reward_funcs": ["exact_match"]} if kind == "grpo" else {}
    (name, value), *_ = given.items()
    message = f"{name} is {value:g}; {range_}{why} ({source})"
    assert told(trainer, config, row, folder, caplog, args=args, **more) == [message]


def test_transformers_word_for_the_noise_is_judged_too(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    args = {"neftune_noise_alpha": 50.0}
    (message,) = told(SFTTrainer, SFTConfig, "text", folder, caplog, args=args)
    assert message.startswith("noise_alpha is 50; 5 to 15 is usual")


@pytest.mark.parametrize(
    ("lora", "says"),
    [
        ({"r": 16, "lora_alpha": 32}, []),
        ({"r": 2, "lora_alpha": 32}, [f"lora_r is 2; 8 to 128 is usual ({SFT})"]),
        ({"r": 16, "lora_alpha": 999}, [f"lora_alpha is 999; 16 to 256 is usual ({SFT})"]),
    ],
)
def test_what_is_usual_for_lora_is_another_rate_and_a_rank(
    lora: dict[str, int], says: list[str], folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    more = {"args": {"learning_rate": 2e-4}, "peft_config": LoraConfig(**lora)}
    assert told(SFTTrainer, SFTConfig, "text", folder, caplog, **more) == says


def test_losses_have_ranges_of_their_own_and_rates_hold_for_those_with_a_reference(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    args = {"loss_type": ["simpo"], "beta": 2.5, "learning_rate": 1e-5}
    assert told(DPOTrainer, DPOConfig, "pair", folder, caplog, args=args) == []


def test_a_model_made_from_nothing_is_not_judged(caplog: pytest.LogCaptureFixture) -> None:
    args = {"learning_rate": 1e-2}
    assert told(SFTTrainer, SFTConfig, "text", "tiny-deepseek-llm", caplog, args=args) == []


@pytest.mark.parametrize("name", REGISTRY.presets)
def test_no_preset_is_unusual(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    preset = REGISTRY.presets[name]
    if name == "deepseek-llm-dpo":  # the paper's batch is not what SFT's range is about
        assert "batch_size" not in usual.DPO
    args: Any = CONFIGS[preset.command](**preset.values, output_dir=str(tmp_path), bf16=False)
    table = dict(args.usual)
    found = usual.numbers_of(args)
    if "learning_rate" not in preset.values:  # the paper is silent: it is TRL's
        table.pop("learning_rate")
    usual.advise(found, table)
    usual.advise(preset.model, usual.LORA)
    assert caplog.records == []
