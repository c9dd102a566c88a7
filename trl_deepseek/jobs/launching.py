"""How many processes a launcher starts: it is had to start some that say so and do nothing else.

Its words alone do not tell: a file of options, the GPUs of the machine and what is installed count
too, and what cannot start at all is known before the first stage begins.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Sequence

from trl_deepseek import stopping
from trl_deepseek.errors import ConfigError
from trl_deepseek.jobs import stage_process

ERROR = re.compile(r"[Ee]rror\b.*\w\W?$")
WORDS = re.compile(r"^(?!\s*traceback\s*:).*\w")  # but those of torchrun about its documentation
SAID = re.compile(r"^one of (\d+) processes$", re.MULTILINE)


def number_of_processes(launcher: Sequence[str], limit: float | None = None) -> int:
    """How many processes a launcher starts, on all machines; 1 without a launcher.

    Args:
        launcher: Its words.
        limit: Seconds that it may take; None for as many as it does, as a stage would wait.

    Raises:
        ConfigError: It starts none, or not what it is told to; says what it said last. Or it
            takes too long.
        Interrupted: By a signal.
    """
    if not launcher:
        return 1
    with tempfile.TemporaryFile("w+") as errors:
        command = [*launcher, "-m", __spec__.name]
        try:
            code, output = stage_process.wait_for(command, {}, errors, limit)
        except subprocess.TimeoutExpired:
            raise ConfigError(
                f"launcher {shlex.join(launcher)!r} has not started its processes within {limit} "
                "seconds\n  where it waits for other machines or in a queue, take it out of the "
                "recipe to check the rest, as for one process"
            ) from None
        errors.seek(0)
        lines = [line.strip() for line in errors if WORDS.search(line)]
    if by := stopping.requested():
        raise stopping.Interrupted(by, "nothing was begun")
    found = SAID.search(output)
    if code == 0 and found:
        return int(found[1])
    silent = f"it ended with exit code {code} and without a word"
    last = [silent, *lines, *filter(ERROR.search, lines)][-1]
    without = "deepspeed is not installed" in last.lower()
    raise ConfigError(
        f"launcher {shlex.join(launcher)!r} does not start a module of this Python: {last}\n"
        + (
            "  pip install 'trl-deepseek[deepspeed]', or take another --config_file"
            if without
            else "  write it as one would in a shell, without what it starts: torchrun "
            "--nproc_per_node=2"
        )
    )


if __name__ == "__main__":
    os.write(1, f"one of {os.environ.get('WORLD_SIZE', '1')} processes\n".encode())
