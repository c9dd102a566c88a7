"""Five hundred GRPO steps with rewards that fail in every way: what is left behind, as a table.

    python scripts/soak.py --steps 500

Each sample is failed by chance, in 0.3 to 1 % of the cases by each reward: one raises, one hangs,
one crashes its worker and leaves a process behind, one returns NaN, one runs code in the sandbox
that leaves processes and files. Prints what the run holds at intervals, then whether any of it
grew, and ends with 1 where it did.

Memory is what is private to the trainer and to its workers, so that other processes of the machine
do not show; the first tenth of the steps is left out of the comparison, since until then every part
is used for the first time.
"""

from __future__ import annotations

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import psutil

SHARE = float(os.environ.get("SOAK_SHARE", "0.01"))  # of the calls that fail
GROWTH = 0.05  # share of the memory that may come and go
SLACK = 3  # descriptors and threads that a call in flight may hold
STRAY = 987_654_321  # seconds that what is left behind would sleep: no other process asks for that


def chance(completion: str, salt: str) -> float:
    """A number from 0 to 1 that the completion, which is noise, and ``salt`` decide."""
    return zlib.crc32(f"{salt} {completion}".encode()) / 2**32


def raises(completion: str) -> float:
    """Raise in 1 % of the calls, with a message that cannot be shown."""

    class Mute(Exception):
        def __str__(self) -> str:
            raise ZeroDivisionError

    if chance(completion, "raises") < SHARE:
        raise Mute
    return float(len(set(completion)))


def hangs(completion: str) -> float:
    """Overrun the time limit in 0.3 % of the calls."""
    if chance(completion, "hangs") < 0.3 * SHARE:
        time.sleep(STRAY)
    return float(len(completion) % 7)


def crashes(completion: str) -> float:
    """Leave processes behind, one of them an orphan in a session of its own, and crash, in 1 %."""
    if chance(completion, "crashes") < SHARE:
        subprocess.Popen(["sleep", str(STRAY)])
        if os.fork() == 0:
            os.setsid()
            subprocess.Popen(["sleep", str(STRAY)])
            os._exit(0)
        os.abort()
    return 0.0


def returns_nan(completion: str) -> float:
    """Return NaN in 1 % of the calls, having opened what it never closes."""
    if chance(completion, "nan") < SHARE:
        os.pipe()
        return float("nan")
    return 1.0


def runs_code(completion: str) -> float:
    """Run code in the sandbox in 1 % of the calls: it leaves processes and fills its disk."""
    from trl_deepseek.sandbox.running import run_python, unavailable
    from trl_deepseek.sandbox.supervise import Limits

    if chance(completion, "code") < SHARE and unavailable() is None:
        program = (
            f"import os, subprocess\nsubprocess.Popen(['sleep', '{STRAY}'])\n"
            "os.fork()\nos.setsid()\n"
            "open('/tmp/x', 'wb').write(bytes(1 << 20))\nwhile True: print('x' * 1000)"
        )
        raise RuntimeError(run_python(program, limits=Limits(wall_time=2.0)).stopped_by)
    return 0.0


REWARDS = (raises, hangs, crashes, returns_nan, runs_code)


@dataclass(frozen=True)
class Held:
    """What the run holds after a step; memory in MiB."""

    step: int
    trainer: float
    workers: float
    descriptors: int
    threads: int
    children: int
    strays: int
    files: int


def held(step: int, scratch: Path) -> Held:
    """Look at this process and at all that it and its workers have started."""
    me = psutil.Process()
    children = me.children(recursive=True)
    return Held(
        step,
        _memory([me]),
        _memory(children),
        me.num_fds(),
        me.num_threads(),
        len(children),
        len(strays()),
        sum(1 for _ in scratch.rglob("*")),
    )


def strays() -> list[int]:
    """Processes that a reward started, wherever they hang in the tree."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cmdline()[-1:] == [str(STRAY)]:
                found.append(process.pid)
        except psutil.Error:  # it has ended
            continue
    return found


def _memory(processes: Sequence[psutil.Process]) -> float:
    total = 0
    for process in processes:
        try:
            memory = process.memory_info()
            total += memory.rss - memory.shared
        except psutil.Error:
            continue
    return total / 2**20


def soak(
    steps: int, every: int, output: Path, scratch: Path
) -> tuple[list[Held], Held, dict[str, float]]:
    """Train; what was held at intervals, what is left at the end, and how many samples failed."""
    import torch
    from transformers import PrinterCallback, TrainerCallback

    from trl_deepseek import GRPOConfig, GRPOTrainer, load_registry

    torch.set_num_threads(1)
    registry = load_registry()
    table: list[Held] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % every == 0:
                table.append(held(state.global_step, scratch))
                show(table[-1])

    arguments = GRPOConfig(
        output_dir=str(output),
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=16,
        max_steps=steps,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        bf16=False,
        disable_tqdm=True,
        reward_workers=2,
        reward_timeout=2.0,
        reward_on_error="abstain",
    )
    model, tokenizer = registry.models["tiny-deepseek-llm"]()
    trainer = GRPOTrainer(
        model,
        list(REWARDS),
        arguments,
        train_dataset=registry.datasets["arithmetic"](kind="prompts", size=256),
        processing_class=tokenizer,
        callbacks=[Watch()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    failed: dict[str, float] = {}
    for log in trainer.state.log_history:
        for reward in REWARDS:
            for what in ("errors", "timeouts"):
                count = log.get(f"rewards/{reward.__name__}/{what}", 0.0)
                failed[f"{reward.__name__} {what}"] = (
                    failed.get(f"{reward.__name__} {what}", 0.0) + count
                )
    del trainer
    gc.collect()  # the workers end with their trainer
    return table, held(steps, scratch), {name: count for name, count in failed.items() if count}


def verdict(table: Sequence[Held], last: Held) -> list[str]:
    """What grew or was left; nothing where the run is flat."""
    warm = [row for row in table if row.step * 10 > last.step] or list(table)
    first, end = warm[0], warm[-1]
    found = []
    for name in ("trainer", "workers"):
        before, after = getattr(first, name), getattr(end, name)
        if after > before * (1 + GROWTH):
            found.append(f"memory of the {name} grew from {before:.0f} to {after:.0f} MiB")
    for name in ("descriptors", "threads", "children"):
        before, after = getattr(first, name), getattr(end, name)
        if after > before + SLACK:
            found.append(f"{name} grew from {before} to {after}")
    if last.children:
        found.append(f"{last.children} processes outlived the rewards")
    if last.strays:
        found.append(f"{last.strays} processes that rewards started outlived them")
    if last.files > first.files:
        found.append(f"{last.files - first.files} files are left in the temporary folder")
    return found


def show(row: Held) -> None:
    """One line of the table."""
    cells = [f"{value:.0f}" for value in astuple(row)]
    print("| " + " | ".join(cells) + " |", flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Run it in an empty temporary folder; 1 where something grew or was left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--every", type=int, help="steps between two lines (a twentieth)")
    given = parser.parse_args(words)
    names = [field.name for field in fields(Held)]
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    with tempfile.TemporaryDirectory() as output:
        scratch = Path(output, "tmp")
        scratch.mkdir()
        before = tempfile.tempdir, os.environ.get("TMPDIR")
        tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)
        started = time.monotonic()
        try:
            every = given.every or max(1, given.steps // 20)
            table, last, failed = soak(given.steps, every, Path(output, "run"), scratch)
        finally:
            tempfile.tempdir = before[0]
            del os.environ["TMPDIR"]
            if before[1] is not None:
                os.environ["TMPDIR"] = before[1]
    show(last)
    print(f"{time.monotonic() - started:.0f} s; failed samples: {failed}")
    found = verdict(table, last)
    print("flat: nothing grew, nothing is left" if not found else "NOT FLAT: " + "; ".join(found))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
