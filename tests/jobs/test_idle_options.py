"""Options that nothing reads are said once, by a command and by a trainer alike; others are not."""

from __future__ import annotations

import logging
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from trl import DPOConfig as StockDPOConfig

from trl_deepseek import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    RewardConfig,
    SFTConfig,
    SFTTrainer,
    load_registry,
)
from trl_deepseek.cli.main import main
from trl_deepseek.jobs import idle_rules as of_commands
from trl_deepseek.jobs.evaluate_options import EvaluateOptions
from trl_deepseek.jobs.job import Job
from trl_deepseek.jobs.options import DataArguments, ModelArguments
from trl_deepseek.jobs.sample_options import SampleOptions
from trl_deepseek.trainers import idle_rules

REGISTRY = load_registry()
TINY = "tiny-deepseek-llm"
ROWS: dict[str, Any] = {"sft": "demonstrations", "dpo": "preferences", "grpo": "prompts"}
OPTIONS: dict[str, dict[str, Any]] = {
    "sft": {},
    "dpo": {},
    "grpo": {"num_generations": 2, "per_device_train_batch_size": 2},
}


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if "no effect" in text]


def checked(kind: str, folder: Path, **options: Any) -> Any:
    config: Any = {"sft": SFTConfig, "dpo": DPOConfig, "grpo": GRPOConfig}[kind]
    trainer: Any = {"sft": SFTTrainer, "dpo": DPOTrainer, "grpo": GRPOTrainer}[kind]
    more = {"reward_funcs": ["exact_match"]} if kind == "grpo" else {}
    args = config(str(folder / "out"), report_to="none", bf16=False, **OPTIONS[kind], **options)
    rows = REGISTRY.datasets["arithmetic"](kind=ROWS[kind], size=4)
    return trainer.check(TINY, args, rows, registry=REGISTRY, **more)


CASES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("sft", {"eval_steps": 5}, ["eval_steps has no effect here; it needs eval_strategy steps"]),
    (
        "sft",
        {"adam_beta1": 0.8, "adam_epsilon": 1e-6, "optim": "sgd"},
        [
            "adam_beta1 has no effect here; it needs an optimizer that takes it (optim)",
            "adam_epsilon has no effect here; it needs an optimizer that takes it (optim)",
        ],
    ),
    (
        "sft",
        {"warmup_steps": 3, "lr_scheduler_type": "constant"},
        [
            "warmup_steps has no effect here; it needs an lr_scheduler_type with a warm-up, such "
            "as constant_with_warmup"
        ],
    ),
    (
        "dpo",
        {"discopop_tau": 0.1, "ref_model_sync_steps": 3, "ref_model_mixup_alpha": 0.1},
        [
            "discopop_tau has no effect here; it needs a loss with this option; `trl-deepseek "
            "plugins show NAME`",
            "ref_model_mixup_alpha and ref_model_sync_steps have no effect here; they need "
            "sync_ref_model",
        ],
    ),
    (
        "grpo",
        {"vllm_mode": "server", "vllm_server_port": 9000, "reward_memory_limit": 2.0},
        [
            "vllm_mode and vllm_server_port have no effect here; they need engine vllm",
            "reward_memory_limit has no effect here; it needs reward_workers or reward_isolation",
        ],
    ),
    (
        "sft",
        {"model_init_kwargs": {"dtype": "bfloat16"}},
        [
            "model_init_kwargs has no effect here; it needs a model that is loaded; an embedded "
            "one is built as it is"
        ],
    ),
    # what acts, and what is given as it is by default
    ("sft", {"adam_beta1": 0.8, "warmup_steps": 3, "eval_steps": None, "save_steps": 500}, []),
    ("dpo", {"loss_type": ["discopop"], "discopop_tau": 0.1, "beta": 0.2}, []),
    ("grpo", {"reward_workers": 1, "reward_memory_limit": 2.0, "vllm_mode": "colocate"}, []),
]


@pytest.mark.parametrize(("kind", "options", "messages"), CASES)
def test_a_trainer_says_what_it_does_not_read(
    kind: str,
    options: dict[str, Any],
    messages: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "trl_deepseek"):
        inputs = checked(kind, tmp_path, **options)
    assert said(caplog) == messages
    assert [text for text in inputs.said if "no effect" in text] == messages


def test_a_command_says_it_too_also_of_the_model_and_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Checked(Exception):
        pass

    def stop(_: Job) -> None:
        raise Checked

    monkeypatch.setattr(Job, "build", stop)
    words = [
        *("dpo", "--model_name_or_path", TINY, "--dataset_name", "arithmetic", "--report_to"),
        *("none", "--chat_template", "deepseek-v3", "--output_dir", str(tmp_path / "out")),
        *("--dataset_kwargs", '{"size": 4}', "--dtype", "bfloat16", "--dataset_test_split"),
        *("train", "--ignore_data_skip", "--precompute_ref_batch_size", "2", "--debug"),
    ]
    with pytest.raises(Checked):
        main(words)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(": ")[2] for line in lines if "no effect" in line] == [
        "dtype has no effect here; it needs a model that is loaded; an embedded one is built as "
        "it is",
        "ignore_data_skip has no effect here; it needs resume_from_checkpoint",
        "dataset_test_split has no effect here; it needs eval_strategy steps or epoch",
        "precompute_ref_batch_size has no effect here; it needs precompute_ref_log_probs",
    ]


def test_of_a_stock_config_what_is_not_as_by_default_is_judged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = REGISTRY.datasets["arithmetic"](kind="preferences", size=4)
    args = StockDPOConfig(str(tmp_path), report_to="none", bf16=False, ref_model_sync_steps=3)
    with caplog.at_level(logging.WARNING, "trl_deepseek"):
        DPOTrainer.check(TINY, args, rows, registry=REGISTRY)
    assert said(caplog) == ["ref_model_sync_steps has no effect here; it needs sync_ref_model"]


@pytest.mark.transformers("5.24")  # the last of them
def test_every_rule_names_options_that_exist() -> None:
    trainers = (SFTConfig, DPOConfig, KTOConfig, RewardConfig, GRPOConfig)
    commands = (DataArguments, ModelArguments, *trainers)
    answers = (SampleOptions, EvaluateOptions)
    tables: list[tuple[Any, Any]] = [
        (idle_rules.TRAINING, trainers),
        *((table, commands) for table in (of_commands.MODEL, of_commands.DATA)),
        *((table, commands) for table in (of_commands.MIXED, of_commands.RESUMED)),
        *((table, answers) for table in (of_commands.DRAWING, of_commands.SCORING)),
    ]
    for rules, kinds in tables:
        known = {field.name for kind in kinds for field in fields(kind)}
        assert [name for rule in rules for name in rule.options if name not in known] == []
