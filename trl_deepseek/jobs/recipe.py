"""A recipe: the stages of a post-training, each a command with its options, from one YAML file.

What a stage trains is what the stage before it saved, unless it says otherwise; ``{NAME}`` in an
option stands for the folder of the earlier stage of that name. Reading a recipe settles all of
this, so that a stage is nothing but a command and options that it takes.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl_deepseek.errors import ConfigError, UserError, did_you_mean
from trl_deepseek.jobs import TRAINING, presets
from trl_deepseek.jobs.places import option_of
from trl_deepseek.yaml_files import Settings, read_mapping

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
        line: Of the recipe's file, on which the stage begins.
        folders: Of earlier stages that the options name.
    """

    name: str
    command: str
    options: Settings
    base: str
    line: int
    folders: frozenset[str] = field(default_factory=frozenset)

    @property
    def output_dir(self) -> str:
        """The folder of the stage."""
        return str(self.options["output_dir"])

    @property
    def saves_adapter(self) -> bool:
        """Whether it saves an adapter and no model of its own."""
        options = {**presets.of_stage(self.options), **self.options}
        return self.command in TRAINING and any(
            options.get(option) for option in ("use_peft", "qlora", "quantization")
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


def read(path: str, check_names: Callable[[str, Settings], None]) -> Recipe:
    """The recipe in a YAML file.

    Args:
        path: Of the file.
        check_names: Refuses options that a command does not have; called for every stage before
            anything else is made of its options.

    Raises:
        ConfigError: The file is no recipe; names the line, the stage and what is wrong with it.
    """
    values = read_mapping(path, "recipe", "output_dir, model_name_or_path and stages")
    return settle(path, values, check_names)


def settle(path: str, values: Settings, check_names: Callable[[str, Settings], None]) -> Recipe:
    """The recipe that the content of a file means; see :func:`read`."""
    with _at(path, values.lines):
        for key in ("output_dir", "stages"):
            if values.get(key) is None:
                raise ConfigError(f"{key} is missing")
            if not values[key]:
                raise ConfigError(f"{key} is empty")
        if not isinstance(values["stages"], list):
            raise ConfigError("stages is a list, each with a command and its options")
        shared = _without(values, OWN_KEYS)
        _refuse_settled(shared)
        launcher = _launcher(values.get("launcher"))
    known = [
        _checked(given, number, f"{path}:{_line(given, values)}", shared, check_names)
        for number, given in enumerate(values["stages"], 1)
    ]
    output, stages = str(values["output_dir"]), list[Stage]()
    for given in known:
        line = _line(given, values)
        with located(f"{path}:{line}: stage {given['name']!r}", given, given.lines):
            start = values.get("model_name_or_path")
            stages.append(_stage(given, stages, start, shared, output, line))
    return Recipe(path, output, launcher, tuple(stages))


def _without(values: Settings, keys: Collection[str]) -> Settings:
    kept = Settings(values)
    for key in keys:
        kept.pop(key, None)
    return kept


def _line(given: Any, values: Settings) -> int:
    return min(getattr(given, "lines", {}).values(), default=values.lines["stages"])


@contextlib.contextmanager
def _at(path: str, lines: Mapping[str, int]) -> Iterator[None]:
    """Errors inside name the file, and the line where that of their option is known."""
    try:
        yield
    except ConfigError as error:
        line = lines.get(option_of(error, lines) or "")
        error.place = path if line is None else f"{path}:{line}"
        raise


def _launcher(given: Any) -> tuple[str, ...]:
    if given is None:
        return ()
    try:
        words = tuple(shlex.split(given)) if isinstance(given, str) else ()
    except ValueError as error:
        raise ConfigError(f"launcher: {error}") from error
    if not words or shutil.which(words[0]) is None:
        raise ConfigError(
            f"launcher {given!r} starts no program that is installed\n"
            "  write it as one would in a shell: torchrun --nproc_per_node=2"
        )
    return words


def _checked(
    given: Any,
    number: int,
    place: str,
    shared: Settings,
    check_names: Callable[[str, Settings], None],
) -> Settings:
    """A stage as it is written, with a command, a name of its own and options that exist."""
    if not isinstance(given, Settings) or given.get("command") not in COMMANDS:
        has = isinstance(given, Settings) and "command" in given
        unknown = f"has an unknown command {given['command']!r}" if has else "has no command"
        hint = did_you_mean(given["command"], COMMANDS, inline=True) if has else ""
        raise ConfigError(
            f"{place}: stage {number} {unknown}{hint}\n"
            f"  a stage is '- command: sft', with the command's options beside it; commands: "
            f"{', '.join(COMMANDS)}"
        )
    command = str(given["command"])
    name = str(command if given.get("name") is None else given["name"])
    options = _without(given, ("command", "name"))
    if command in TRAINING:
        options = Settings(shared, options)
    with located(f"{place}: stage {name!r}", options, options.lines):
        if not NAME.fullmatch(name):
            raise ConfigError("a name is letters, digits, '.', '_' and '-'")
        _refuse_settled(options)
        check_names(command, options)
    return Settings(given, {"name": name})


@contextlib.contextmanager
def located(where: str, options: Mapping[str, Any], lines: Mapping[str, int]) -> Iterator[None]:
    """Errors inside are preceded by ``where``, with the line of the option that they are about.

    Args:
        where: ``file:line: stage 'name'``.
        options: Those of the stage.
        lines: Of the options that the file gives.

    Raises:
        UserError: What was raised, with the place.
    """
    try:
        yield
    except UserError as error:
        line = lines.get(option_of(error, options) or "")
        if line is not None:
            where = re.sub(r":\d+: stage", f":{line}: stage", where, count=1)
        error.place = where
        raise


def _stage(
    given: Settings,
    earlier: list[Stage],
    start: str | None,
    shared: Settings,
    output: str,
    line: int,
) -> Stage:
    command, name = str(given["command"]), str(given["name"])
    options = _without(given, ("command", "name"))
    if any(stage.name == name for stage in earlier):
        raise ConfigError("the name is there twice\n  give one of them a 'name: ...' of its own")
    folders: set[str] = set()
    known = {stage.name: stage.output_dir for stage in earlier}
    for option, value in options.items():
        options[option] = _resolve(value, known, folders, option)
    source: Stage | None
    if command == "merge":
        source = _adapter_to_merge(options.get("adapter"), earlier)
        options["adapter"] = source.output_dir
    else:
        options = Settings(shared, options)
        source = _model_to_train(options.get("model_name_or_path"), earlier)
        if source is not None:
            options["model_name_or_path"] = source.output_dir
        elif options.get("model_name_or_path") is None:
            options["model_name_or_path"] = start
    if source is not None:
        folders.add(source.output_dir)
    begun = source.base if source else options.get("model_name_or_path")
    if not begun:
        raise ConfigError("model_name_or_path is missing, here or for all stages")
    options["output_dir"] = str(Path(output, name))
    return Stage(name, command, options, str(begun), line, frozenset(folders))


def _model_to_train(named: str | None, earlier: list[Stage]) -> Stage | None:
    """The stage whose model this one starts from; None where that is no stage's."""
    if named is None:
        policies = [stage for stage in earlier if stage.command != "reward"]
        source = policies[-1] if policies else None
    else:
        source = next((stage for stage in earlier if stage.output_dir == named), None)
    if source is not None and source.saves_adapter:
        raise ConfigError(
            f"it would start from the adapter that stage {source.name!r} saves\n"
            "  put '- command: merge' between the two"
        )
    return source


def _adapter_to_merge(named: str | None, earlier: list[Stage]) -> Stage:
    """The stage whose adapter is merged: the one before, or the one named in braces."""
    if named is not None:
        source = next((stage for stage in earlier if stage.output_dir == named), None)
    else:
        source = earlier[-1] if earlier else None
    if source is None or not source.saves_adapter:
        which = "the stage before it" if named is None else f"adapter {named!r}"
        raise ConfigError(
            f"{which} is no stage that saves an adapter\n"
            "  'adapter: \"{NAME}\"' names one, and `trl-deepseek merge` merges others beforehand"
        )
    return source


def _resolve(value: Any, known: Mapping[str, str], folders: set[str], option: str) -> Any:
    """An option's value with the folders of earlier stages in place of their names in braces."""
    if isinstance(value, dict):
        return {key: _resolve(inner, known, folders, option) for key, inner in value.items()}
    if isinstance(value, list):
        return [_resolve(inner, known, folders, option) for inner in value]
    if not isinstance(value, str):
        return value

    def folder(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise ConfigError(
                f"{option}: {match[0]} is no earlier stage"
                + (f"; there are {', '.join(known)}" if known else "; this is the first")
            )
        folders.add(known[match[1]])
        return known[match[1]]

    return REFERENCE.sub(folder, value)


def _refuse_settled(options: Mapping[str, Any]) -> None:
    for option in SETTLED:
        if option in options:
            raise ConfigError(
                f"{option} is no option of a stage: its folder is the recipe's output_dir and its "
                "name, and an interrupted run goes on by itself"
            )
