"""``trl-deepseek sft``: supervised fine-tuning on the user's model and data."""

from __future__ import annotations

import argparse
from typing import Any

from trl_deepseek.cli import training
from trl_deepseek.trainers.configs import SFTConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    training.add_training_arguments(parser, SFTConfig)


def run(args: argparse.Namespace) -> int:
    job = training.prepare(args, SFTConfig, "demonstrations")

    def build() -> Any:
        from trl_deepseek.trainers.sft import SFTTrainer

        return SFTTrainer(
            job.model_name,
            job.config,
            train_dataset=job.train_dataset,
            eval_dataset=job.eval_dataset,
            **job.trainer_options,
        )

    return training.run(args, build)
