"""Supervised fine-tuning as a job."""

from __future__ import annotations

import argparse

from trl_deepseek.jobs import job, presets
from trl_deepseek.jobs.job import Job
from trl_deepseek.trainers.configs import SFTConfig

OPTIONS = (SFTConfig,)


def settle(options: argparse.Namespace) -> Job:
    """The job without its data; see :func:`trl_deepseek.jobs.job.settle`."""
    registry = job.registry_for(options)
    presets.apply(options, registry, "sft")
    return job.settle(options, SFTConfig, registry)


def check(options: argparse.Namespace) -> Job:
    """The checked job; see :meth:`trl_deepseek.jobs.job.Job.check`."""
    from trl_deepseek.trainers.sft import SFTTrainer

    return settle(options).check(SFTTrainer, "demonstrations")
