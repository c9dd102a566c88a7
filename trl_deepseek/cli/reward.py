"""``trl-deepseek reward``: a reward model from preference pairs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from trl_deepseek.cli import training
from trl_deepseek.trainers.configs import RewardConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    training.add_training_arguments(parser, RewardConfig)


def run(args: argparse.Namespace) -> int:
    return training.run(args, prepare(args)[1])


def prepare(args: argparse.Namespace) -> tuple[training.Job, Callable[[], Any]]:
    """The checked job, and what builds its trainer."""
    job = training.prepare(args, RewardConfig, "preferences")

    def build() -> Any:
        from trl_deepseek.trainers.reward import RewardTrainer

        return RewardTrainer(
            job.model,
            job.config,
            train_dataset=job.train_dataset,
            eval_dataset=job.eval_dataset,
            **job.trainer_options,
        )

    return job, build
