"""Supervised fine-tuning as a job."""

from __future__ import annotations

import argparse

from trl_deepseek.jobs import job
from trl_deepseek.jobs.job import Job
from trl_deepseek.trainers.configs import SFTConfig

OPTIONS = (SFTConfig,)


def settle(options: argparse.Namespace) -> Job:
    """The job without its data; see :func:`trl_deepseek.jobs.job.settle`."""
    return job.settle(options, SFTConfig, job.registry_for(options))


def check(options: argparse.Namespace) -> Job:
    """The checked job; see :meth:`trl_deepseek.jobs.job.Job.check`."""
    from trl_deepseek.trainers.sft import SFTTrainer

    return settle(options).check(SFTTrainer, "demonstrations")
