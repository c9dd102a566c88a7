"""``trl-deepseek sft``: supervised fine-tuning on the user's model and data."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from trl_deepseek import data
from trl_deepseek.cli import training
from trl_deepseek.data import demonstrations
from trl_deepseek.trainers.configs import SFTConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    training.add_training_arguments(parser, SFTConfig)


def run(args: argparse.Namespace) -> int:
    return training.run(args, prepare(args)[1])


def prepare(args: argparse.Namespace) -> tuple[training.Job, Callable[[], Any]]:
    """The checked job, and what builds its trainer."""
    job = training.prepare(args, SFTConfig, "demonstrations")
    for dataset in (job.train_dataset, job.eval_dataset):
        if dataset is not None:
            demonstrations.layout_of(
                dataset,
                text_field=job.config.dataset_text_field,
                name=data.source_of(dataset, args.dataset_name),
            )

    def build() -> Any:
        from trl_deepseek.trainers.sft import SFTTrainer

        return SFTTrainer(
            job.model,
            job.config,
            train_dataset=job.train_dataset,
            eval_dataset=job.eval_dataset,
            **job.trainer_options,
        )

    return job, build
