"""``trl-deepseek grpo``: group relative policy optimisation with rewards by name."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from trl_deepseek import data, rewards
from trl_deepseek.cli import training
from trl_deepseek.cli.parser import build_dataclasses
from trl_deepseek.errors import ConfigError
from trl_deepseek.rewards.weights import weigh
from trl_deepseek.trainers.configs import GRPOConfig


@dataclass
class RewardArguments:
    """Which rewards score the completions."""

    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Registered names, file.py:function, module.function, model:PATH; one or more."
        },
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    training.add_training_arguments(parser, GRPOConfig, RewardArguments)


def run(args: argparse.Namespace) -> int:
    return training.run(args, prepare(args)[1])


def prepare(args: argparse.Namespace) -> tuple[training.Job, Callable[[], Any]]:
    """The checked job, and what builds its trainer."""
    (chosen,) = build_dataclasses(args, [RewardArguments])
    if not chosen.reward_funcs:
        raise ConfigError(
            "--reward_funcs is required: one or more registered names (see `trl-deepseek plugins`) "
            "or file.py:function"
        )
    job = training.prepare(args, GRPOConfig, "prompts")
    functions = rewards.resolve(chosen.reward_funcs, job.registry)
    data.require_columns(job.train_dataset, ["prompt"], args.dataset_name, "GRPO")
    rewards.check_columns(functions, job.train_dataset.column_names)
    if hasattr(job.train_dataset, "__len__"):  # else streamed
        rewards.check_rows(functions, job.train_dataset)
    rewards.check_sandbox(functions, job.config.allow_unsandboxed_code)
    weigh(job.config.reward_weights, [rewards.name_of(function) for function in functions])

    def build() -> Any:
        from trl_deepseek.trainers.grpo import GRPOTrainer

        return GRPOTrainer(
            job.model,
            functions,
            job.config,
            train_dataset=job.train_dataset,
            eval_dataset=job.eval_dataset,
            **job.trainer_options,
        )

    return job, build
