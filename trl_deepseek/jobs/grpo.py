"""Group relative policy optimisation as a job."""

from __future__ import annotations

import argparse
from collections.abc import Collection

from trl_deepseek.engines.checking import check_installed
from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs import job, presets
from trl_deepseek.jobs.job import Job
from trl_deepseek.jobs.options import RewardArguments, build_dataclasses
from trl_deepseek.policy.plan import plan
from trl_deepseek.rewards.resolving import MODEL_PREFIX
from trl_deepseek.rewards.verifiers import verifier_of
from trl_deepseek.trainers.configs import GRPOConfig

OPTIONS = (RewardArguments, GRPOConfig)


def settle(options: argparse.Namespace) -> Job:
    """The job without its data; see :func:`trl_deepseek.jobs.job.settle`."""
    if "use_vllm" in options.given and options.engine == "vllm" and not options.use_vllm:
        raise ConfigError("engine vllm and use_vllm false contradict each other: leave one out")
    registry = job.registry_for(options)
    presets.apply(options, registry, "grpo")
    settled = job.settle(options, GRPOConfig, registry)
    plan(settled.config, registry)
    return settled


def check(options: argparse.Namespace, to_come: Collection[str] = ()) -> Job:
    """The checked job; see :meth:`trl_deepseek.jobs.job.Job.check`.

    Args:
        options: As parsed.
        to_come: Folders of reward models that are still to be trained; what is said of them is
            checked once they are there, and noted in ``later``.
    """
    (chosen,) = build_dataclasses(options, [RewardArguments])
    settled = settle(options)
    if settled.config.use_vllm:
        check_installed("use_vllm")  # first of all, since the trainer imports a vLLM that is there
    from trl_deepseek.trainers.grpo import GRPOTrainer

    used = {"tools": chosen.tools, "environment_factory": chosen.environment_factory}
    used = {name: value for name, value in used.items() if value}
    if not chosen.reward_funcs:
        scored = verifier_of(chosen.task, settled.registry) if chosen.task else None
        return settled.check(GRPOTrainer, "prompts", reward_funcs=scored, **used)
    absent = tuple(MODEL_PREFIX + folder for folder in to_come)
    there = (
        [name for name in chosen.reward_funcs if not name.startswith(absent)]
        if absent
        else (chosen.reward_funcs)
    )
    settled.later += [
        f"reward {name!r} and its weight are checked once that model is trained"
        for name in chosen.reward_funcs
        if name not in there
    ]
    if settled.later:
        settled.config.reward_weights = None  # by names that are not all known yet
    return settled.check(GRPOTrainer, "prompts", reward_funcs=there, **used)
