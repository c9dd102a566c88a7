"""``trl-deepseek validate``: everything that is wrong with a config or a recipe, in one report.

``validate sft --config run.yaml`` takes what the command takes; of ``validate run.yaml`` the
command is the one whose options the file has; ``validate recipe.yaml`` looks at every stage.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from trl_deepseek import jobs, processes
from trl_deepseek.cli import run as recipes
from trl_deepseek.cli import training
from trl_deepseek.cli.output import hide_progress_bars, machine_readable
from trl_deepseek.cli.parser import Parser, read_config
from trl_deepseek.cli.validation_page import show
from trl_deepseek.errors import ConfigError, UserError, did_you_mean
from trl_deepseek.jobs import recipe as recipe_files
from trl_deepseek.jobs import stage_checks
from trl_deepseek.jobs.places import option_of
from trl_deepseek.jobs.progress import Progress
from trl_deepseek.jobs.references import IN_BRACES
from trl_deepseek.jobs.setting_aside import refusals
from trl_deepseek.jobs.stages import KINDS
from trl_deepseek.yaml_files import Settings

if TYPE_CHECKING:
    from trl_deepseek.jobs.findings import Report

HELP = {
    "--no_model": "Leave out the forward and backward pass of the real model.",
    "--json": "Print one JSON object.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", metavar="COMMAND|CONFIG|RECIPE", help="A training command, or a YAML file."
    )
    rest = parser.add_argument(
        "options", nargs=argparse.REMAINDER, help="Of the command; --no_model and --json."
    )
    rest.required = False  # argparse would name it where nothing is given
    for flag, text in HELP.items():
        parser.add_argument(flag, action="store_true", help=text)


@dataclass
class _Target:
    """One job to look at; no options where they could not be read."""

    command: str
    stage: str | None = None
    options: argparse.Namespace | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    to_come: frozenset[str] = frozenset()
    wrong: list[UserError] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    processes: int = 1


def run(args: argparse.Namespace) -> int:
    own = {flag: getattr(args, flag[2:]) or flag in args.options for flag in HELP}
    flags = [word for word in args.options if word not in own]
    with machine_readable(True):
        hide_progress_bars()
        targets = _targets(args.what, flags)
        found = [(each, _look(each, not own["--no_model"])) for each in targets]
    answer = [_as_json(*each) for each in found]
    problems = [problem for each in answer for problem in each["problems"]]
    if own["--json"]:
        print(json.dumps({"problems": problems, "jobs": answer}, ensure_ascii=False))
    else:
        show(answer)
    return 2 if problems else 0


def _targets(what: str, flags: list[str]) -> list[_Target]:
    """What is to be looked at.

    Raises:
        ConfigError: The file cannot be read, or its command is not known.
    """
    commands = (*jobs.TRAINING, *jobs.ALIASES)
    if what in commands:
        return [_job(what, *_config_among(flags))]
    if not what.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"{what!r} is neither a training command{did_you_mean(what, commands, inline=True)} "
            f"nor a YAML file\n  commands: {', '.join(commands)}"
        )
    values = read_config(what)
    if "stages" in values:
        if flags:
            raise ConfigError(f"unexpected argument {flags[0]!r}: a recipe has its options inside")
        return _stages(what, values)
    return [_job(_command_of(what, values), what, flags)]


def _config_among(flags: list[str]) -> tuple[str | None, list[str]]:
    for place, word in enumerate(flags):
        name, equals, value = word.partition("=")
        if name == "--config" and (equals or place + 1 < len(flags)):
            rest = flags[:place] + flags[place + (1 if equals else 2) :]
            return (value if equals else flags[place + 1]), rest
    return None, flags


def _command_of(path: str, values: Settings) -> str:
    """The command that has the most of the file's options.

    Raises:
        ConfigError: It is not one alone.
    """
    unknown = {}
    for command in jobs.TRAINING:
        known = {action.dest for action in _parser(command)._actions}
        unknown[command] = len([key for key in values if key not in known])
    best = [command for command in unknown if unknown[command] == min(unknown.values())]
    if len(best) > 1:
        raise ConfigError(
            f"{path} has options of {', '.join(best)} alike: which command is it for?\n"
            f"  trl-deepseek validate {best[0]} --config {path}"
        )
    return best[0]


def _parser(command: str) -> Parser:
    parser = Parser(prog=f"trl-deepseek validate {command}")
    training.add_arguments(parser, command)
    return parser


def _defaults(parser: Parser) -> dict[str, Any]:
    return {action.dest: parser.get_default(action.dest) for action in parser._actions}


def _job(command: str, path: str | None, flags: list[str]) -> _Target:
    target = _Target(command)
    parser = _parser(command)
    target.defaults = _defaults(parser)
    try:
        words = _sound_flags(flags, _parser(command), target.wrong)
        if path is not None:
            values = _sound(read_config(path), lambda: _parser(command), path, target.wrong)
            words = parser.with_settings(values, path, words)
        target.options = parser.parse_args(words)
    except UserError as error:
        target.wrong.append(error)
    return target


def _sound_flags(flags: list[str], parser: Parser, wrong: list[UserError]) -> list[str]:
    """The flags that are options and have a value of their type; ``wrong`` gets the others."""
    groups: list[list[str]] = []
    for word in flags:
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    kept = []
    for group in groups:
        try:
            parser.parse_args(group)
        except UserError as error:
            wrong.append(error)
        else:
            kept += group
    return kept


def _sound(
    values: Settings, parser: Callable[[], Parser], path: str, wrong: list[UserError]
) -> Settings:
    """The settings that are options and have a value of their type; ``wrong`` gets the others."""
    kept = Settings(values)
    trial = parser()
    for key in values:
        one = Settings(values)
        for other in values:
            if other != key:
                del one[other]
        try:
            trial.parse_args(trial.with_settings(one, path, []))
        except UserError as error:
            wrong.append(error)
            del kept[key]
    return kept


def _stages(path: str, values: Settings) -> list[_Target]:
    """Every stage; before them what is wrong with the recipe as a whole."""
    whole = _Target("run")
    _without_unknown(path, values, whole.wrong)
    recipe, gone = None, set[str]()
    while recipe is None:
        try:
            recipe = recipe_files.settle(path, values, recipes.check_names)
        except UserError as error:
            named = IN_BRACES.search(str(error.args[0]))
            if not (gone and (values.get("stages") == [] or (named and named[1] in gone))):
                whole.wrong.append(error)
            if not _set_aside(error, values, gone):
                return [whole]
    try:
        Progress(recipe).check(recipe)
    except UserError as error:
        whole.wrong.append(error)
    number = 1
    try:
        number = recipes.number_of_processes(recipe, recipe.stages, recipes.LAUNCHER_LIMIT)
    except UserError as error:
        whole.wrong.append(error)
    with processes.planned(number):
        targets = [_stage(path, stage) for stage in recipe.stages]
    for target in targets:
        target.processes = number
    return [whole, *targets] if whole.wrong else targets


def _without_unknown(path: str, values: Settings, wrong: list[UserError]) -> None:
    """Take options out of a recipe that its commands do not have, each with a message."""
    stages = values.get("stages") if isinstance(values.get("stages"), list) else []
    known = [each for each in stages or [] if isinstance(each, Settings)]
    known = [each for each in known if each.get("command") in list(KINDS)]
    trained = [each["command"] for each in known if each["command"] in jobs.TRAINING]
    for given in (*known, values):
        commands = set(trained) if given is values else {given["command"]}
        for key in sorted(set(given) - {*recipe_files.OWN_KEYS, *recipe_files.SETTLED}):
            if given is not values and key in ("command", "name"):
                continue
            for command in sorted(commands):
                try:
                    recipes.check_names(command, Settings({key: given[key]}))
                except UserError as error:
                    error.place = f"{path}:{given.lines[key]}"
                    wrong.append(error)
                    del given[key]
                    break


def _set_aside(error: UserError, values: Settings, gone: set[str]) -> bool:
    """Take the option or the stage out of a recipe that an error is about; whether there is one.

    Args:
        error: What was raised.
        values: The recipe.
        gone: Names of the stages that were taken out; those who name them are not to blame.
    """
    line = (error.place or "").partition(": ")[0].rpartition(":")[2]
    if not isinstance(values.get("stages"), list):
        return False
    for given in (*values["stages"], values):
        option = option_of(error, given) if isinstance(given, Settings) else None
        if option is None or str(given.lines.get(option)) != line:
            continue
        if option in ("stages", "output_dir"):
            return False
        if option == "command":
            break
        found = IN_BRACES.search(str(error.args[0]))
        value = given[option]
        kept = [each for each in value if found and found[0] not in str(each)]
        if isinstance(value, list) and kept and len(kept) < len(value):
            given[option] = kept
        else:
            del given[option]
        return True
    names = list[str]()
    for given in values["stages"]:
        name = str(given.get("name") or given.get("command")) if isinstance(given, Settings) else ""
        if line in map(str, getattr(given, "lines", {}).values()):
            if name in names:  # the stage itself can still be looked at
                given["name"] = f"{name}-{line}"
            else:
                values["stages"].remove(given)
                gone.add(name)
            return True
        names.append(name)
    return False


def _stage(path: str, stage: recipe_files.Stage) -> _Target:
    target = _Target(stage.command, stage.name)
    target.to_come = frozenset(each.output_dir for each in stage.uses.values())
    parser = recipes.parser_of(stage.command)
    target.defaults = _defaults(parser)
    # Without its rows, a job is checked as far as `trl-deepseek run` checks it.
    whole = stage.kind.trains and not stage_checks.reads_rows_of_a_stage(stage)
    options = stage.options
    if stage.command != "merge":  # whose only option is an argument
        own = functools.partial(recipes.parser_of, stage.command)
        options = _sound(options, own, path, target.wrong)
    try:
        parsed = parser.parse_args(recipes.words_of(stage, parser, options))
    except UserError as error:
        error.place = error.place or f"{path}:{stage.line}"
        target.wrong.append(error)
        return target
    parsed.places = {key: f"{path}:{line}" for key, line in options.lines.items()}
    if whole:
        target.options = recipes.from_base(stage, parsed)
        return target

    models = getattr(parsed, stage.kind.model)
    count = len(models) if isinstance(models, list) else None

    def check(options: argparse.Namespace) -> list[str]:
        # In the place of a model that was refused, the one that the chain begins with.
        kept = getattr(options, stage.kind.model)
        full = kept or stage.base
        if count is not None:
            full = [*(kept or ()), *[stage.base] * (count - len(kept or ()))]
        options = argparse.Namespace(**{**vars(options), stage.kind.model: full})
        # What a run has left there is taken out of the way by `run` where it does not fit.
        return stage_checks.check(stage, options, (), anew=True)

    wrong, later = refusals(parsed, target.defaults, check)
    for each in wrong:
        each.place = each.place or f"{path}:{stage.line}"
    target.wrong += wrong
    target.unchecked = ["the rest: mend the problems above first"] if later is None else later
    return target


def _look(target: _Target, with_model: bool) -> Report:
    from trl_deepseek.jobs import validation
    from trl_deepseek.jobs.findings import Report

    report = Report()
    if target.options is not None:
        wrong = [option_of(error, target.defaults) for error in target.wrong]
        with processes.planned(target.processes):
            report = validation.validate(
                target.options,
                target.defaults,
                with_model=with_model,
                to_come=target.to_come,
                aside=filter(None, wrong),
            )
    report.unchecked += target.unchecked
    found, report.problems = report.problems, []
    for problem in target.wrong:
        report.add(problem)
    report.problems += found
    return report


def _as_json(target: _Target, report: Report) -> dict[str, Any]:
    found = {"command": target.command, "stage": target.stage, **asdict(report)}
    for finding in found["problems"]:
        place, colon, stage = (finding["place"] or "").partition(": ")
        if colon:  # the stage is part of the place where no stage could be made of it
            finding |= {"place": place, "message": f"{stage}: {finding['message']}"}
        finding |= {"stage": target.stage}
    return found
