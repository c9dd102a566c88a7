"""``--preset NAME``: what a registered preset sets, in the place of the defaults of a command."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from trl_deepseek import jobs
from trl_deepseek.errors import ConfigError, PluginError, did_you_mean
from trl_deepseek.jobs.options import ModelArguments
from trl_deepseek.plugin_loading import load_registry
from trl_deepseek.registry import Registry
from trl_deepseek.types import Preset

logger = logging.getLogger(__name__)

# Of one run on one machine: no paper can say them.
OF_THE_RUN = ("output_dir", "plugins", "block", "resume_from_checkpoint", "init_from_checkpoint")

# What takes the place of settings of TRL's, so that a preset's give way to it.
INSTEAD_OF = {"advantage": ("scale_rewards", "multi_objective_aggregation")}


def apply(options: argparse.Namespace, registry: Registry, command: str) -> None:
    """Set what the options' preset sets and the user does not, once; says so in one line.

    What it sets counts as given from then on, with the preset for its place.

    Args:
        options: As parsed, changed in place.
        registry: Where the preset is looked up.
        command: The training command.

    Raises:
        UnknownName: There is no such preset.
        ConfigError: It is for another command.
        PluginError: It sets an option that the command does not have.
    """
    name = getattr(options, "preset", None)
    if name is None or getattr(options, "applied_preset", None) == name:
        return
    preset = registry.presets[name]
    check(name, preset, registry, command)
    values = dict(preset.options)
    left_out: list[str] = []
    full = "use_peft" in options.given and not options.use_peft
    if full and not options.qlora and options.quantization is None:
        left_out = [option for option in preset.model if option not in options.given]
    for option in options.given.intersection(INSTEAD_OF):
        for other in INSTEAD_OF[option]:
            values.pop(other, None)
    new = [option for option in values if option not in {*options.given, *left_out}]
    for option in new:
        setattr(options, option, values[option])
    options.given = options.given | set(new)
    options.places = {**options.places, **dict.fromkeys(new, f"preset {name!r}")}
    options.applied_preset = name
    said = ", ".join(f"{each}={values[each]!r}" for each in new) or "sets nothing"
    theirs = [option for option in values if option not in {*new, *left_out}]
    for why, which in (("given instead", theirs), ("left out, without LoRA", left_out)):
        said += f"; {why}: {', '.join(which)}" if which else ""
    logger.info("preset %s: %s", name, said)


def check(name: str, preset: Preset, registry: Registry, command: str) -> None:
    """Refuse a preset that is not for a command, or sets what it does not have.

    Raises:
        ConfigError: It is for another command.
        PluginError: It sets an option that the command does not have.
    """
    if preset.command != command:
        for_it = [each for each, other in registry.presets.items() if other.command == command]
        raise ConfigError(
            f"preset {name!r} is for {preset.command}, not for {command}\n"
            f"  presets for {command}: {', '.join(for_it) or '(none)'}"
        )
    fault = fault_of(preset)
    if fault is not None:
        (entry,) = (each for each in registry.entries("presets") if each.name == name)
        plugin = entry.origin.plugin
        raise PluginError(
            plugin,
            f"preset {name!r}: {fault}\n"
            f"  plugin {plugin!r} has to be mended; or leave the preset out",
        )


def fault_of(preset: Preset) -> str | None:
    """What is wrong with the names in a preset, whoever uses it; None where all are right."""
    command = preset.command
    if command not in jobs.TRAINING:
        known = ", ".join(jobs.TRAINING)
        return f"it is for {command!r}, which is no training command: {known}"
    parts = (
        (preset.values, jobs.kind(command).OPTIONS, f"option of {command}"),
        (preset.model, (ModelArguments,), "field of ModelConfig"),
    )
    for values, kinds, what in parts:
        known_names = _names(kinds)
        for option in values:
            if option in OF_THE_RUN:
                return f"{option} is of one run, which no preset can set"
            if option not in known_names:
                hint = did_you_mean(option, known_names, inline=True)
                return f"{option} is no {what}{hint}"
    return None


def _names(kinds: Iterable[Any]) -> list[str]:
    found = [field.name for kind in kinds for field in fields(kind) if field.init]
    return [name for name in found if name not in OF_THE_RUN]


def of_stage(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the preset of a recipe's stage sets; nothing where there is none, or none of that name.

    Args:
        options: Those of the stage.
    """
    name = options.get("preset")
    if name is None:
        return {}
    try:
        presets = load_registry(options.get("plugins") or (), options.get("block") or ()).presets
    except PluginError:
        return {}  # which the stage's own check says
    return presets[name].options if name in presets else {}
