"""A recipe: the stages of a post-training, each a command with its options, from one YAML file.

What a stage trains is what the stage before it saved, unless it says otherwise; ``{NAME}`` in an
option stands for the folder of the earlier stage of that name. Reading a recipe settles all of
this, so that a stage is nothing but a command and options that it takes.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs import TRAINING
from trl_deepseek.yaml_files import read_mapping

COMMANDS = (*TRAINING, "merge")
OWN_KEYS = ("output_dir", "model_name_or_path", "launcher", "stages")
# A stage's own are settled by the recipe, or are flags of one run and no settings.
SETTLED = (
    "output_dir",
    "resume_from_checkpoint",
    "json",
    "dry_run",
    "gpu_memory",
    "config",
    "overwrite_output_dir",
)
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")
REFERENCE = re.compile(r"\{(" + NAME.pattern + r")\}")


@dataclass(frozen=True)
class Stage:
    """One command of a recipe.

    Attributes:
        name: What the others call it, and the name of its folder.
        command: ``sft``, ``preference``, ``reward``, ``grpo`` or ``merge``.
        options: All that the command is given, ``output_dir`` and the model included.
        base: The model that the chain of stages up to this one began with, which has the shape of
            what this stage trains.
        folders: Of earlier stages that the options name.
    """

    name: str
    command: str
    options: Mapping[str, Any]
    base: str
    folders: frozenset[str] = field(default_factory=frozenset)

    @property
    def output_dir(self) -> str:
        """The folder of the stage."""
        return str(self.options["output_dir"])

    @property
    def saves_adapter(self) -> bool:
        """Whether it saves an adapter and no model of its own."""
        return self.command in TRAINING and any(
            self.options.get(option) for option in ("use_peft", "qlora", "quantization")
        )


@dataclass(frozen=True)
class Recipe:
    """What a file says.

    Attributes:
        file: Its path.
        output_dir: The folder of all stages.
        launcher: The words that start the processes of a training stage instead of this Python,
            such as those of ``torchrun --nproc_per_node=2``; empty for none.
        stages: In their order.
    """

    file: str
    output_dir: str
    launcher: tuple[str, ...]
    stages: tuple[Stage, ...]


def read(path: str) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        ConfigError: The file is no recipe; names the stage and what is wrong with it.
    """
    values = read_mapping(path, "recipe", "output_dir, model_name_or_path and stages")
    for key in ("output_dir", "stages"):
        if not values.get(key):
            raise ConfigError(f"{path}: {key} is missing")
    if not isinstance(values["stages"], list):
        raise ConfigError(f"{path}: stages is a list, each with a command and its options")
    shared = {key: value for key, value in values.items() if key not in OWN_KEYS}
    _refuse_settled(shared, f"{path}: ")
    output = str(values["output_dir"])
    stages: list[Stage] = []
    for number, given in enumerate(values["stages"], 1):
        start = values.get("model_name_or_path")
        stages.append(_stage(given, number, stages, start, shared, output, path))
    return Recipe(path, output, _launcher(values.get("launcher"), path), tuple(stages))


def _launcher(given: Any, path: str) -> tuple[str, ...]:
    if given is None:
        return ()
    try:
        words = tuple(shlex.split(given)) if isinstance(given, str) else ()
    except ValueError as error:
        raise ConfigError(f"{path}: launcher: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise ConfigError(
            f"{path}: launcher {given!r} starts no program that is installed\n"
            "  write it as one would in a shell: torchrun --nproc_per_node=2"
        )
    return words


def _stage(
    given: Any,
    number: int,
    earlier: list[Stage],
    start: str | None,
    shared: Mapping[str, Any],
    output: str,
    path: str,
) -> Stage:
    if not isinstance(given, dict) or given.get("command") not in COMMANDS:
        has = isinstance(given, dict) and "command" in given
        raise ConfigError(
            f"{path}: stage {number} has {'an unknown' if has else 'no'} command\n"
            f"  a stage is '- command: sft', with the command's options beside it; commands: "
            f"{', '.join(COMMANDS)}"
        )
    options = dict(given)
    command = str(options.pop("command"))
    name = str(options.pop("name", command))
    where = f"{path}: stage {name!r}"
    if not NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name is letters, digits, '.', '_' and '-'")
    if any(stage.name == name for stage in earlier):
        raise ConfigError(f"{where} is there twice\n  give one of them a 'name: ...' of its own")
    _refuse_settled(options, f"{where}: ")
    folders: set[str] = set()
    known = {stage.name: stage.output_dir for stage in earlier}
    options = _resolve(options, known, folders, where)
    source: Stage | None
    if command == "merge":
        source = _adapter_to_merge(options.get("adapter"), earlier, where)
        options["adapter"] = source.output_dir
    else:
        options = {**shared, **options}
        source = _model_to_train(options.get("model_name_or_path"), earlier, where)
        if source is not None:
            options["model_name_or_path"] = source.output_dir
        elif options.get("model_name_or_path") is None:
            options["model_name_or_path"] = start
    if source is not None:
        folders.add(source.output_dir)
    begun = source.base if source else options.get("model_name_or_path")
    if not begun:
        raise ConfigError(f"{where}: model_name_or_path is missing, here or for all stages")
    options["output_dir"] = str(Path(output, name))
    return Stage(name, command, options, str(begun), frozenset(folders))


def _model_to_train(named: str | None, earlier: list[Stage], where: str) -> Stage | None:
    """The stage whose model this one starts from; None where that is no stage's."""
    if named is None:
        policies = [stage for stage in earlier if stage.command != "reward"]
        source = policies[-1] if policies else None
    else:
        source = next((stage for stage in earlier if stage.output_dir == named), None)
    if source is not None and source.saves_adapter:
        raise ConfigError(
            f"{where} would start from the adapter that stage {source.name!r} saves\n"
            "  put '- command: merge' between the two"
        )
    return source


def _adapter_to_merge(named: str | None, earlier: list[Stage], where: str) -> Stage:
    """The stage whose adapter is merged: the one before, or the one named in braces."""
    if named is not None:
        source = next((stage for stage in earlier if stage.output_dir == named), None)
    else:
        source = earlier[-1] if earlier else None
    if source is None or not source.saves_adapter:
        which = "the stage before it" if named is None else f"adapter {named!r}"
        raise ConfigError(
            f"{where}: {which} is no stage that saves an adapter\n"
            "  'adapter: \"{NAME}\"' names one, and `trl-deepseek merge` merges others beforehand"
        )
    return source


def _resolve(value: Any, known: Mapping[str, str], folders: set[str], where: str) -> Any:
    """``value`` with the folders of earlier stages in the place of their names in braces."""
    if isinstance(value, dict):
        return {key: _resolve(inner, known, folders, where) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolve(inner, known, folders, where) for inner in value]
    if not isinstance(value, str):
        return value

    def folder(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise ConfigError(
                f"{where}: {match[0]} is no earlier stage"
                + (f"; there are {', '.join(known)}" if known else "; this is the first")
            )
        folders.add(known[match[1]])
        return known[match[1]]

    return REFERENCE.sub(folder, value)


def _refuse_settled(options: Mapping[str, Any], where: str) -> None:
    for option in SETTLED:
        if option in options:
            raise ConfigError(
                f"{where}{option} is no option of a stage: its folder is the recipe's output_dir "
                "and its name, and an interrupted run goes on by itself"
            )
