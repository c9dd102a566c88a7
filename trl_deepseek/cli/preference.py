"""``trl-deepseek preference``: any registered loss on preference data, chosen by one word.

The options are those of TRL's DPO, with the class weights of its KTO. What the loss is defined on
decides which of the two trainers runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from trl_deepseek.cli import training
from trl_deepseek.errors import ConfigError
from trl_deepseek.trainers.configs import ClassWeights, DPOConfig, KTOConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    training.add_training_arguments(parser, DPOConfig, ClassWeights)


def choose_config(args: argparse.Namespace) -> type:
    """The config of the trainer that the loss needs; settles the options that the two share."""
    from trl_deepseek.losses.plan import is_unpaired
    from trl_deepseek.trainers.base import registry_for

    names = list(args.loss_type)
    unpaired = is_unpaired(names, registry_for(args))
    _refuse_foreign_options(args, names, unpaired)
    if unpaired:
        _take_defaults(args)
        args.loss_type = names[0]
    return KTOConfig if unpaired else DPOConfig


def run(args: argparse.Namespace) -> int:
    return training.run(args, prepare(args)[1])


def prepare(args: argparse.Namespace) -> tuple[training.Job, Callable[[], Any]]:
    """The checked job, and what builds its trainer."""
    names = list(args.loss_type)
    job = training.prepare(args, choose_config(args), "preferences")

    def build() -> Any:
        from trl_deepseek.trainers.preference import preference_trainer

        return preference_trainer(
            job.model,
            names,
            job.train_dataset,
            job.config,
            eval_dataset=job.eval_dataset,
            **job.trainer_options,
        )

    return job, build


def _refuse_foreign_options(args: argparse.Namespace, names: list[str], unpaired: bool) -> None:
    """An option that only the other trainer reads must not be dropped in silence."""
    ours, theirs = (KTOConfig, DPOConfig) if unpaired else (DPOConfig, KTOConfig)
    foreign = {f.name for f in fields(theirs)} - {f.name for f in fields(ours)}
    for option in sorted(foreign.intersection(args.given)):
        data = "labelled singles" if unpaired else "pairs"
        raise ConfigError(
            f"--{option} does not apply to loss {', '.join(map(repr, names))}, which is defined on "
            f"{data}\n  leave it out; `trl-deepseek plugins show {names[0]}` lists its options"
        )


def _take_defaults(args: argparse.Namespace) -> None:
    """Where TRL's two configs have different defaults, those of KTO."""
    pairs = {f.name: f.default for f in fields(DPOConfig)}
    for field in fields(KTOConfig):
        if field.name not in args.given and field.default != pairs.get(field.name, field.default):
            setattr(args, field.name, field.default)
