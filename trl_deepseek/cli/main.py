"""Dispatch ``trl-deepseek COMMAND`` and turn errors into one message and an exit code.

Exit codes: 0 done, 1 the run failed, 2 the user's input is wrong; 129, 130 and 143 ended by SIGHUP,
Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version

from trl_deepseek import secrets, stopping
from trl_deepseek.cli.parser import Parser
from trl_deepseek.cli.ranks import message_of_this_rank, said_by_the_first
from trl_deepseek.environment import NOTES_ON_DEFAULTS
from trl_deepseek.errors import ConfigError, TrlDeepseekError, UserError, did_you_mean
from trl_deepseek.jobs import ALIASES, TRAINING

COMMANDS = {
    "quickstart": "Train the embedded tiny model: SFT, then GRPO, with tables and a picture.",
    "sft": "Supervised fine-tuning.",
    "preference": "Train on preferences with any registered loss: dpo, ipo, kto, orpo, ...",
    "reward": "Train a reward model on preference pairs.",
    "grpo": "Group relative policy optimisation with reward functions by name.",
    "run": "Run the stages of a recipe: SFT, merge, reward model, preferences, GRPO, in any order.",
    "evaluate": "Measure models side by side, by any metric or reward, with intervals.",
    "validate": "Say everything that is wrong with a config or a recipe, with file and line.",
    "sample": "Draw completions, score them with rewards, and write rows for training.",
    "chat": "Talk with a model in the terminal.",
    "merge": "Merge an adapter into its 16-bit base and check that nothing changed.",
    "report": "Write one page about a run or a recipe: curves, completions, what was warned of.",
    "rewards": "Try rewards on a file of completions, or on those that a run saved.",
    "show-sample": "Show the first rows of a training job as the model sees them.",
    "recommend": "Look at data, name the training for it and print the command.",
    "presets": "Settings of papers for the training commands, each number with its source.",
    "plugins": "List every name that plugins register, and the plugins that do not load; show one.",
}
# What these print is all that they do.
SHORT = ("rewards", "show-sample", "plugins", "presets", "recommend", "validate")
HELP = {"-h", "--help", "help", "--version"}
OF_STDOUT = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    # TRL reports each trainer to the hub unless told not to; a run tells nobody unless asked.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # Without a GPU, bitsandbytes warns at import of a kernel that nobody asked it for.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    for note in NOTES_ON_DEFAULTS:
        warnings.filterwarnings("ignore", note)
    debug = "--debug" in argv
    argv = [word for word in argv if word != "--debug"]
    argv = argv or ["--help"]
    try:
        with stopping.handled():
            code = _run(argv[0], argv[1:])
            if sys.stdout is not None:
                sys.stdout.flush()  # or Python finds out at its end that nobody reads
            return code
    except TrlDeepseekError as error:
        if debug:
            raise
        _say(argv[0], str(error))
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt as interrupt:
        if debug:
            traceback.print_exc()
        ended = interrupt
        if not isinstance(ended, stopping.Interrupted):
            ended = stopping.explained(interrupt, "nothing was saved")
        said_by_the_first(lambda: _print(f"\ntrl-deepseek {argv[0]}: {ended}"))
        return ended.exit_code
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.filename is None and error.errno in OF_STDOUT:
            with contextlib.suppress(OSError, ValueError):  # Python would try once more at its end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if (
                argv[0] in SHORT or HELP.intersection(argv)
            ) and error.errno == errno.EPIPE:  # as in `plugins | head`
                return 1
            reason = f"stdout cannot be written: {os.strerror(error.errno or 0)}"
            _say(argv[0], f"{reason}\n  all else was done; send it to a file or to another disk")
        else:
            _say(argv[0], _unforeseen(error))
        return 1


def _say(command: str, message: str) -> None:
    """One message on stderr, from one process for all."""
    own = message_of_this_rank(message)
    if own is not None:
        _print(f"trl-deepseek {command}: {own}")


def _print(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # closed, and there is nowhere else to say it
        print(secrets.redacted(text), file=sys.stderr, flush=True)


def _run(command: str, argv: list[str]) -> int:
    if command in HELP:
        release = f"trl-deepseek {version('trl-deepseek')}"
        print(release if command == "--version" else _overview())
        return 0
    if command not in COMMANDS and command not in ALIASES:
        known = [*COMMANDS, *ALIASES]
        raise ConfigError(
            f"unknown command {command!r}{did_you_mean(command, known, inline=True)}\n"
            f"  commands: {', '.join(known)}"
        )
    name = "preference" if command in ALIASES else command
    parser = Parser(prog=f"trl-deepseek {command}", description=COMMANDS[name])
    if name in TRAINING:
        module = importlib.import_module("trl_deepseek.cli.training")
        module.add_arguments(parser, command)
    else:
        module = importlib.import_module(f"trl_deepseek.cli.{name.replace('-', '_')}")
        module.add_arguments(parser)
    try:
        args = parser.parse_args(argv)
    except SystemExit:
        if sys.stdout is not None:
            sys.stdout.flush()  # the help, of which somebody may have read enough
        raise
    with telling(command) if getattr(args, "tells", False) else contextlib.nullcontext():
        return int(module.run(args))


@contextlib.contextmanager
def telling(command: str) -> Iterator[None]:
    """Show on stderr what the package says about a run: what it recognised, what it doubts."""
    if os.environ.get("RANK", "0") != "0":  # the first process says it for all
        yield
        return
    logger = logging.getLogger("trl_deepseek")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Redacting(f"trl-deepseek {command}: %(message)s"))
    handler.addFilter(_once())
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _once() -> Callable[[logging.LogRecord], bool]:
    """A filter by which what is merely told, such as how a file was read, is told once."""
    told: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.levelno > logging.INFO or text not in told:
            told.add(text)
            return True
        return False

    return is_new


class _Redacting(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return secrets.redacted(super().format(record))


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: trl-deepseek COMMAND [options]",
            "",
            "Plugins for Hugging Face TRL: DeepSeek chat templates, losses and rewards by name.",
            "",
            "commands:",
            *lines,
            f"  {', '.join(ALIASES):{width}}",
            f"  {'':{width}}Preference training with that loss: preference --loss_type NAME.",
            "",
            "trl-deepseek COMMAND --help lists a command's options; --debug shows tracebacks.",
        ]
    )


def _unforeseen(error: Exception) -> str:
    """One line about an exception that nobody expected, and where its traceback is kept."""
    what = " ".join(f"{type(error).__name__}: {error}".split())
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="trl-deepseek-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(secrets.redacted("".join(traceback.format_exception(error))))
    except OSError:
        return f"{what}\n  --debug shows the traceback"
    return f"{what}\n  the traceback is in {file.name}"
