"""An argument parser whose mistakes are one sentence, and which reads a YAML file of options.

``--config run.yaml`` stands for its keys as flags in front of the command line, so that flags win
over YAML and both go through the same checks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NoReturn

from trl_deepseek import secrets
from trl_deepseek.errors import ConfigError, did_you_mean
from trl_deepseek.jobs.option_types import PAIRS, text_or_list
from trl_deepseek.jobs.places import naming
from trl_deepseek.yaml_files import Settings, read_mapping

NEGATIVE = re.compile(r"-(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?$|-(inf|nan)$", re.IGNORECASE)
# What argparse and transformers say of a value of another type, and what is wanted.
TYPES = {
    r"--(\w+): invalid int value: (.*)": "a whole number",
    r"--(\w+): invalid (?:float|check_\w+) value: (.*)": "a number",
    r"--(\w+): Truthy value expected: got (.*) but expected": "true or false",
}
# Words of which some mean yes or no, so that YAML's true and false do.
TRUTHS = ("resume_from_checkpoint", "scale_rewards")
# Keys of accelerate's launcher, which TRL's own files of options may hold.
LAUNCHER = {
    *("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port"),
    *("mixed_precision", "distributed_type", "compute_environment", "rdzv_backend", "same_network"),
    *("main_training_function", "gpu_ids", "downcast_bf16", "enable_cpu_affinity", "dynamo_config"),
    *("deepspeed_config", "accelerate_config", "main_process_port", "tpu_env", "tpu_use_cluster"),
    *("tpu_use_sudo", "num_cpu_threads_per_process"),
}
# Options of other versions of TRL and of the alignment handbook, and what to write today.
RENAMED = {
    "torch_dtype": "it is called dtype",
    "reward_funcs": "it is called metrics",
    "max_seq_length": "it is called max_length",
    "max_prompt_length": "prompts are not cut; leave out rows that are too long",
    "evaluation_strategy": "it is called eval_strategy",
    "warmup_ratio": "write the share as warmup_steps",
    "group_by_length": "write train_sampling_strategy: group_by_length",
    "dataset_mixer": "write datasets: a list of path and weight",
    "dataset_mixture": "write datasets: a list of path and weight",
    "dataset_splits": "write dataset_train_split and dataset_test_split",
    "test_split_size": "write the held-out rows as eval_dataset",
    "streaming": "it is called dataset_streaming",
    "preprocessing_num_workers": "it is called dataset_num_proc",
    "use_flash_attention_2": "write attn_implementation: flash_attention_2",
    "logging_dir": "leave it out; set TENSORBOARD_LOGGING_DIR",
    "tokenizer_name_or_path": "leave it out; it is the model's",
    "lr": "it is called learning_rate",
    "epochs": "it is called num_train_epochs",
    "num_epochs": "it is called num_train_epochs",
    "batch_size": "it is called per_device_train_batch_size",
    "model": "it is called model_name_or_path",
    "dataset": "it is called dataset_name",
}


MAY_BE_EMPTY = "generation_prefix"  # answers that begin with nothing


class Parser(argparse.ArgumentParser):
    """Refuses with :class:`ConfigError` instead of printing the usage and exiting."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter, **kwargs
        )
        # Before Python 3.14 argparse takes -1e-5 for an option.
        self._negative_number_matcher = NEGATIVE
        self.counted: set[str] = set()  # options that count as given though no word does
        self._places: dict[str, str] = {}  # file:line of options that a YAML file gives

    def error(self, message: str) -> NoReturn:
        """Raise instead of exiting, as argparse would."""
        # argparse lists every way to write the option; the first is enough
        message = re.sub(r"^argument (--\w+)(/--[\w-]+)*: ", r"\1: ", message)
        for pattern, wanted in TYPES.items():
            value = re.match(pattern, message)
            if value is not None:
                raise ConfigError(f"{value[1]} takes {wanted}, not {value[2]}")
        raise ConfigError(f"{message}\n  {self.prog} --help lists the options")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; the result also knows what was given, and where.

        Its ``given`` is the set of options that were given, ``places`` the ``file:line`` of those
        that were read from a file.

        Raises:
            ConfigError: An option is unknown, malformed or missing, or the YAML file is.
        """
        args = self._with_config(list(args or []))
        with naming(self._places, self._places):
            parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            if unknown[0] == "--":
                raise ConfigError("unexpected argument '--'")
            names = [word.split("=")[0] for word in unknown if word.startswith("-")]
            if not names:
                raise ConfigError(f"unexpected argument {unknown[0]!r}")
            known = [flag.lstrip("-").replace("-", "_") for flag in self._flags()]
            raise ConfigError(self._unknown([name.lstrip("-") for name in names], known, "--"))
        words = {word.split("=")[0] for word in args}
        parsed.given = self.counted | {
            action.dest for action in self._actions if words.intersection(action.option_strings)
        }
        parsed.places = self._places
        self._refuse_empty(vars(parsed))
        return parsed

    def _refuse_empty(self, values: Mapping[str, Any]) -> None:
        """Refuse text that is given and is empty: nobody knows what is meant."""
        for action in self._actions:
            value = values.get(action.dest)
            empty = "" in value if isinstance(value, list) else value == ""
            if empty and value != action.default and action.dest != MAY_BE_EMPTY:
                place = self._places.get(action.dest)
                raise ConfigError(
                    f"{f'{place}: ' if place else ''}{action.dest} is empty\n"
                    "  give it a value, or leave it out"
                )

    def _flags(self) -> list[str]:
        flags = [flag for action in self._actions for flag in action.option_strings]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                flags += [flag for sub in action.choices.values() for flag in sub._flags()]
        return flags

    def _with_config(self, args: list[str]) -> list[str]:
        """Replace ``--config FILE`` by the flags that its keys stand for."""
        if not any(action.dest == "config" for action in self._actions):
            return args
        for place, word in enumerate(args):
            name, equals, value = word.partition("=")
            if name == "--config":
                if not equals and (place + 1 == len(args) or args[place + 1].startswith("--")):
                    self.error("argument --config: expected the path of a YAML file")
                rest = args[:place] + args[place + (1 if equals else 2) :]
                path = value if equals else args[place + 1]
                return self.with_settings(read_config(path), path, rest)
        return args

    def with_settings(self, values: Settings, path: str, flags: Sequence[str]) -> list[str]:
        """The words that the content of a config file stands for, and flags, which win over it.

        Args:
            values: What :func:`read_config` gave.
            path: Of the file, for messages.
            flags: Words of the command line.

        Raises:
            ConfigError: An option is unknown or malformed; names the line.
        """
        given = {word.split("=")[0] for word in flags}
        over = {a.dest for a in self._actions if given.intersection(a.option_strings)}
        places = {str(key): f"{path}:{line}" for key, line in values.lines.items()}
        self._places = {option: place for option, place in places.items() if option not in over}
        with naming({str(key): value for key, value in values.items()}, places):
            return [*self._settings(values), *flags]

    def _settings(self, values: Settings) -> list[str]:
        values = Settings(values)
        variables = values.pop("env", None) or {}
        if not isinstance(variables, dict) or any(
            isinstance(value, (dict, list)) for value in variables.values()
        ):
            raise ConfigError(
                "env must be a mapping of environment variables to values, such as\n"
                "  env:\n    WANDB_PROJECT: mine"
            )
        for variable, value in variables.items():
            os.environ[str(variable)] = "" if value is None else str(value)
        return self.as_flags(secrets.taken_up(values))

    def check_names(self, values: Mapping[str, Any]) -> None:
        """Refuse options that do not exist, all in one message.

        Raises:
            ConfigError: Some do not.
        """
        taken = {action.dest for action in self._actions} - {"config", "help"}
        unknown = [str(key) for key in values if key not in taken]
        if unknown:
            raise ConfigError(self._unknown(unknown, taken, "", getattr(values, "lines", {})))

    def as_flags(self, values: Mapping[str, Any]) -> list[str]:
        """The words on a command line that mean what the options in ``values`` mean in YAML.

        Args:
            values: Options by name.

        Raises:
            ConfigError: Some options do not exist, or a value has another shape.
        """
        # First of each: a boolean that is on by default has --no_NAME as well, after --NAME.
        actions = {action.dest: action for action in reversed(self._actions)}
        self.check_names(values)
        spelled = getattr(values, "spelled", {})
        flags: list[str] = []
        for key, value in values.items():
            action = actions[key]
            if value is None or (value == [] and action.nargs in ("+", "*")):
                action.default = value
                self.counted.add(key)  # null or []
            else:
                is_word = action.nargs != 0 and action.type in (str, None, text_or_list)
                word = spelled.get(key, value)
                if is_word and not action.choices and key not in TRUTHS:
                    value = word  # no is the word
                elif key in spelled and str(word).lower() in (action.choices or ()):
                    value = str(word).lower()  # and so are on and off
                flags += _as_flags(action, value, key)
        return flags

    def _unknown(
        self,
        names: list[str],
        known: Iterable[str],
        dashes: str,
        lines: Mapping[str, int] = MappingProxyType({}),
    ) -> str:
        """One message about all names that are no options."""
        known = [dashes + name for name in known]
        launcher = [name for name in names if name in LAUNCHER]
        others = [name for name in names if name not in LAUNCHER]
        said: list[str] = []
        if others:
            listed = [_described(dashes + name, name, known) for name in dict.fromkeys(others)]
            said = [f"unknown option {listed[0]}"]
            if len(listed) > 1:
                places = [f"line {lines[n]}: " if n in lines else "" for n in dict.fromkeys(others)]
                said = [f"  {place}{each}" for place, each in zip(places, listed, strict=True)]
                said = [f"unknown options {', '.join(dict.fromkeys(others))}", *said]
        if launcher:
            listed = list(dict.fromkeys(dashes + name for name in launcher))
            said += [
                f"{', '.join(listed)}: settings of the launcher, which starts the processes\n"
                "  put them into a file of their own: accelerate launch --config_file FILE "
                f"-m trl_deepseek {self.prog.split()[-1]} ..."
            ]
        return "\n".join(said)


def read_config(path: str) -> Settings:
    """The content of a config file.

    Raises:
        ConfigError: It is none.
    """
    return read_mapping(path, "config file", "option names to values")


def _described(shown: str, name: str, known: Sequence[str]) -> str:
    renamed = RENAMED.get(name, "")
    target = renamed.removeprefix("it is called ")
    if target != renamed and not any(each.lstrip("-") == target for each in known):
        renamed = ""  # of another command
    hint = f" ({renamed})" if renamed else did_you_mean(shown, known, inline=True)
    return f"{shown if shown.startswith('-') else repr(shown)}{hint}"


def _as_flags(action: argparse.Action, value: Any, where: str) -> list[str]:
    """The words on a command line that mean what ``key: value`` means in YAML."""
    flag = action.option_strings[0]
    if action.nargs == 0:  # a switch, such as --json
        if not isinstance(value, bool):
            raise ConfigError(f"{where} is on or off: write true or false, not {value!r}")
        return [flag] if value else []
    if isinstance(value, dict):
        if action.nargs in ("+", "*") and action.metavar == PAIRS:
            return [flag, *(f"{old}={new}" for old, new in value.items())]
        if action.type not in (str, None):
            raise ConfigError(f"{where} takes {_kind(action)}, not a mapping")
        if action.nargs in ("+", "*") and action.metavar is None:
            raise ConfigError(f"{where} takes a list of words, not a mapping")
        return [flag, json.dumps(value)]
    if isinstance(value, list):
        if action.nargs not in ("+", "*"):
            raise ConfigError(f"{where} takes one value, not a list")
        words = [_word(action, each, where) for each in value]
        # One item stays a list where text alone would mean something else.
        if action.type is text_or_list:
            return [f"{flag}={json.dumps(words)}"]
        return [flag, *words]
    return [f"{flag}={_word(action, value, where)}"]


def _word(action: argparse.Action, value: Any, where: str) -> str:
    """One value as it is written on a command line."""
    if isinstance(value, (dict, list)):
        if action.type not in (str, None):
            raise ConfigError(f"{where} takes {_kind(action)}, not a mapping or a list of lists")
        return json.dumps(value)
    if isinstance(value, bool):
        if action.type in (int, float):
            raise ConfigError(f"{where} takes {_kind(action)}, not {str(value).lower()}")
        # YAML reads a bare no as false; here it is the word.
        return "no" if not value and "no" in (action.choices or ()) else str(value).lower()
    if action.type is int and isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _kind(action: argparse.Action) -> str:
    return "a number" if action.type in (int, float) else "a word"


def add_options_of(parser: argparse.ArgumentParser, options: type) -> None:
    """The fields of a command's dataclass, ``--config``, ``--json``, and plugins."""
    from trl_deepseek.jobs.options import add_dataclasses

    add_dataclasses(parser, [options])
    parser.add_argument("--config", metavar="FILE", help="YAML file of options; flags win over it.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object at the end.")
    add_plugin_options(parser)
    parser.set_defaults(tells=True)


def add_plugin_options(parser: argparse.ArgumentParser) -> None:
    """``--plugins`` and ``--block``, for commands that have no training config."""
    parser.add_argument(
        "--plugins",
        nargs="+",
        default=[],
        metavar="PLUGIN",
        help="Python files and modules to load as plugins, beside the installed ones.",
    )
    parser.add_argument(
        "--block", nargs="+", default=[], metavar="NAME", help="Names of plugins to leave out."
    )
