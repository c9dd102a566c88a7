"""Preference training as a job.

The options are those of TRL's DPO, with the class weights of its KTO. What the loss is defined on
decides which of the two trainers runs.
"""

from __future__ import annotations

import argparse
from dataclasses import fields

from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs import job, presets
from trl_deepseek.jobs.job import Job
from trl_deepseek.losses.plan import is_unpaired
from trl_deepseek.trainers.config_fields import ClassWeights
from trl_deepseek.trainers.configs import DPOConfig, KTOConfig

OPTIONS = (ClassWeights, DPOConfig)


def settle(options: argparse.Namespace) -> Job:
    """The job without its data; see :func:`trl_deepseek.jobs.job.settle`."""
    registry = job.registry_for(options)
    presets.apply(options, registry, "preference")
    names = [options.loss_type] if isinstance(options.loss_type, str) else list(options.loss_type)
    unpaired = is_unpaired(names, registry)
    _refuse_foreign_options(options, names, unpaired)
    settled = argparse.Namespace(**vars(options))
    if unpaired:
        _take_defaults(settled)
    settled.loss_type = names[0] if unpaired else names
    return job.settle(settled, KTOConfig if unpaired else DPOConfig, registry)


def check(options: argparse.Namespace) -> Job:
    """The checked job; see :meth:`trl_deepseek.jobs.job.Job.check`."""
    from trl_deepseek.trainers.preference import DPOTrainer, KTOTrainer

    settled = settle(options)
    unpaired = isinstance(settled.config, KTOConfig)
    return settled.check(KTOTrainer if unpaired else DPOTrainer, "preferences")


def _refuse_foreign_options(options: argparse.Namespace, names: list[str], unpaired: bool) -> None:
    """An option that only the other trainer reads must not be dropped in silence."""
    ours, theirs = (KTOConfig, DPOConfig) if unpaired else (DPOConfig, KTOConfig)
    foreign = {f.name for f in fields(theirs)} - {f.name for f in fields(ours)}
    for option in sorted(foreign.intersection(options.given)):
        data = "labelled singles" if unpaired else "pairs"
        raise ConfigError(
            f"--{option} does not apply to loss {', '.join(map(repr, names))}, which is defined on "
            f"{data}\n  leave it out; `trl-deepseek plugins show {names[0]}` lists its options"
        )


def _take_defaults(options: argparse.Namespace) -> None:
    """Where TRL's two configs have different defaults, those of KTO."""
    pairs = {f.name: f.default for f in fields(DPOConfig)}
    for field in fields(KTOConfig):
        is_given = field.name in options.given
        if not is_given and field.default != pairs.get(field.name, field.default):
            setattr(options, field.name, field.default)
