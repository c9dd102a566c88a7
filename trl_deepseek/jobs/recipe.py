"""A recipe: the stages of a post-training, each a command with its options, from one YAML file.

A stage works on the model of the stage before it, unless it says otherwise, and names earlier
stages in its options (see ``references``). Reading a recipe settles all of this, so that a stage is
nothing but a command and options that it takes.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trl_deepseek.errors import ConfigError, did_you_mean
from trl_deepseek.jobs import ALIASES, presets
from trl_deepseek.jobs.places import located, option_of
from trl_deepseek.jobs.references import NAME, References, sources_of
from trl_deepseek.jobs.stages import KINDS, Kind
from trl_deepseek.yaml_files import Settings, read_mapping

OWN_KEYS = ("output_dir", "model_name_or_path", "launcher", "stages")
# A stage's own are settled by the recipe, or are flags of one run and no settings.
SETTLED = (
    "output_dir",
    "output_file",
    "resume_from_checkpoint",
    "json",
    "dry_run",
    "gpu_memory",
    "config",
    "overwrite_output_dir",
)


@dataclass(frozen=True)
class Stage:
    """One command of a recipe.

    Attributes:
        name: What the others call it, and the name of its folder.
        command: One of ``stages.KINDS``.
        options: All that the command is given, where it writes and the model included.
        written: The same with earlier stages by their names and without where it writes, which is
            what a change of the recipe is seen by.
        base: The model that the chain of stages up to this one began with, which has the shape of
            what this stage works on.
        line: Of the recipe's file, on which the stage begins.
        output_dir: Its folder.
        uses: The earlier stages that the options name, by their names.
    """

    name: str
    command: str
    options: Settings
    written: Settings
    base: str
    line: int
    output_dir: str
    uses: Mapping[str, Stage] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """What there is to know of its command."""
        return KINDS[self.command]

    @property
    def saves_adapter(self) -> bool:
        """Whether it saves an adapter and no model of its own."""
        options = {**presets.of_stage(self.options), **self.options}
        return self.kind.trains and any(
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
        again: The command that runs it.
    """

    file: str
    output_dir: str
    launcher: tuple[str, ...]
    stages: tuple[Stage, ...]
    again: str = ""

    def depending_on(self, first: str) -> set[str]:
        """The stage ``first`` and those that use it, directly or through others."""
        found = {first}
        for stage in self.stages:
            if found.intersection(stage.uses):
                found.add(stage.name)
        return found


def read(
    path: str,
    check_names: Callable[[str, Settings], None],
    over: Mapping[str, Any] = MappingProxyType({}),
) -> Recipe:
    """The recipe in a YAML file.

    Args:
        path: Of the file.
        check_names: Refuses options that a command does not have; called for every stage before
            anything else is made of its options.
        over: What is to stand beside the stages instead of what the file has there.

    Raises:
        ConfigError: The file is no recipe; names the line, the stage and what is wrong with it.
    """
    recipe = settle(path, read_values(path, over), check_names)
    flags = [f"--{name} {shlex.quote(str(value))}" for name, value in over.items()]
    return replace(recipe, again=" ".join(["trl-deepseek run", path, *flags]))


def read_values(path: str, over: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """What a recipe's file holds, and ``over`` instead of what it has; see :func:`read`."""
    values = read_mapping(path, "recipe", "output_dir, model_name_or_path and stages")
    return Settings(values, over)


def settle(path: str, values: Settings, check_names: Callable[[str, Settings], None]) -> Recipe:
    """The recipe that the content of a file means; see :func:`read`."""
    with _at(path, values.lines):
        for key in ("output_dir", "stages"):
            if values.get(key) is None:
                raise ConfigError(f"{key} is missing")
            if not values[key]:
                raise ConfigError(f"{key} is empty")
        if isinstance(values["output_dir"], (list, dict)):
            raise ConfigError("output_dir is one folder")
        if not isinstance(values["stages"], list):
            raise ConfigError("stages is a list, each with a command and its options")
        shared = _without(values, OWN_KEYS)
        _refuse_settled(shared)
        launcher = _launcher(values.get("launcher"))
    known = [
        _checked(given, number, f"{path}:{_line(given, values)}", shared, check_names)
        for number, given in enumerate(values["stages"], 1)
    ]
    commands = {str(given["command"]) for given in known}
    taken = {command: _taken(shared, command, check_names) for command in commands}
    with _at(path, values.lines):
        for option in shared:
            if not any(option in each for each in taken.values()):
                check_names(min(commands), Settings({option: shared[option]}))
    output, stages = str(values["output_dir"]), list[Stage]()
    for given in known:
        line, start = _line(given, values), values.get("model_name_or_path")
        with located(f"{path}:{line}: stage {given['name']!r}", given, given.lines):
            own = taken[str(given["command"])]
            later = [str(each["name"]) for each in known[len(stages) :]]
            stages.append(_stage(given, stages, start, own, output, line, later))
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
    if not isinstance(given, Settings) or given.get("command") not in list(KINDS):
        has = isinstance(given, Settings) and "command" in given
        unknown = f"has an unknown command {given['command']!r}" if has else "has no command"
        hint = did_you_mean(given["command"], KINDS, inline=True) if has else ""
        if has and given["command"] in ALIASES:
            hint = f" (write command: preference and loss_type: {given['command']})"
        error = ConfigError(
            f"stage {number} {unknown}{hint}\n"
            f"  a stage is '- command: sft', with the command's options beside it; commands: "
            f"{', '.join(KINDS)}"
        )
        error.place = place
        raise error
    command = str(given["command"])
    name = str(command if given.get("name") is None else given["name"])
    options = _without(given, ("command", "name"))
    if KINDS[command].trains:
        options = Settings(shared, options)
    with located(f"{place}: stage {name!r}", options, options.lines):
        if not NAME.fullmatch(name):
            raise ConfigError("a name is letters, digits, '.', '_' and '-'")
        _refuse_settled(options)
        check_names(command, options)
    return Settings(given, {"name": name})


def _stage(
    given: Settings,
    earlier: list[Stage],
    start: str | None,
    shared: Settings,
    output: str,
    line: int,
    later: Collection[str],
) -> Stage:
    command, name = str(given["command"]), str(given["name"])
    kind, written = KINDS[command], Settings(shared, _without(given, ("command", "name")))
    if any(stage.name == name for stage in earlier):
        raise ConfigError("the name is there twice\n  give one of them a 'name: ...' of its own")
    found, options = References(earlier, start, later), Settings(written)
    for option, value in written.items():
        options[option] = found.resolve(value, option)
    sources = sources_of(kind, options.get(kind.model), earlier)
    if options.get(kind.model) is None:
        model = sources[0].output_dir if sources else start
        options[kind.model] = [model] if kind.model == "models" and model else model
        written[kind.model] = f"{{{sources[0].name}}}" if sources else start
    uses = {**found.uses, **{source.name: source for source in sources}}
    named = options[kind.model]
    base = sources[0].base if sources else named[0] if isinstance(named, list) else named
    if not base:
        raise ConfigError(f"{kind.model} is missing, here or for all stages")
    folder = str(Path(output, name))
    options[kind.writes] = kind.where(folder)
    return Stage(name, command, options, written, str(base), line, folder, uses)


def _taken(
    shared: Settings, command: str, check_names: Callable[[str, Settings], None]
) -> Settings:
    """Of the options beside the stages, those that a stage is given.

    One that trains is given them all, and refuses those that it does not have; another command is
    given those that it has.
    """
    if KINDS[command].trains:
        return shared
    taken = Settings(shared)
    for option in shared:
        try:
            check_names(command, Settings({option: shared[option]}))
        except ConfigError:
            del taken[option]
    return taken


def _refuse_settled(options: Mapping[str, Any]) -> None:
    for option in SETTLED:
        if option in options:
            raise ConfigError(
                f"{option} is no option of a stage: its folder is the recipe's output_dir and its "
                "name, and an interrupted run goes on by itself"
            )
