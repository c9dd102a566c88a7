"""Our trainers against stock TRL's where no plugin is used: same losses, same time per step.

    python benchmarks/stock_trl.py [--steps 20] [--rounds 5] [--json]

Both train the same tiny model on the same rows with the same seed, in one process, a step of one
and then that step of the other: what else the machine does lasts longer than a step, and so meets
both. Losses must be equal to the last bit. Then a step of ours does the same work as that step of
TRL's, so that the ratio is taken step by step: the median over all steps and rounds, with its
quartiles. Processor time (of all threads) counts what a busy machine cannot distort as much as it
does the clock. The first step of a run, which also makes room for the others, is left out.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import trl
from datasets import Dataset
from rich.console import Console
from rich.table import Table
from transformers import PrinterCallback, TrainerCallback

import trl_deepseek
from trl_deepseek import load_registry

TIMES = ("clock", "processor")


def even_length(completions: list[str], **_: Any) -> list[float]:
    """A reward that is neither ours nor constant."""
    return [float(len(completion) % 2 == 0) for completion in completions]


class Turns:
    """Runs of which one goes on at a time, each with its own random numbers."""

    def __init__(self, runs: int) -> None:
        self._change = threading.Condition()
        self._going = list(range(runs))
        self._of: list[Any] = [None] * runs
        self._threads = torch.get_num_threads()

    def keep(self, run: int) -> None:
        """Note what ``run`` would draw next."""
        self._of[run] = torch.get_rng_state(), random.getstate(), np.random.get_state()

    def wait(self, run: int) -> None:
        """Return when it is the turn of ``run``, with its random numbers."""
        with self._change:
            self._change.wait_for(lambda: self._going[0] == run)
        torch.set_num_threads(self._threads)  # torch counts them for each thread
        of_torch, of_python, of_numpy = self._of[run]
        torch.set_rng_state(of_torch)
        random.setstate(of_python)
        np.random.set_state(of_numpy)

    def pass_on(self, run: int, last: bool = False) -> None:
        """It is the next one's turn, and no more that of ``run`` where this was its ``last``."""
        self.keep(run)
        with self._change:
            self._going.remove(run)
            if not last:
                self._going.append(run)
            self._change.notify_all()


@dataclass
class Steps(TrainerCallback):
    """Loss, seconds on the clock and seconds of processor time of each optimizer step."""

    turns: Turns
    run: int
    losses: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    _start: tuple[float, float] = (0.0, 0.0)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Let the other run go on to where it begins this step, then start both clocks."""
        self.turns.pass_on(self.run)
        self.turns.wait(self.run)
        self._start = time.perf_counter(), time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop both."""
        self.clock.append(time.perf_counter() - self._start[0])
        self.processor.append(time.process_time() - self._start[1])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **kwargs: Any) -> None:
        """Keep the loss."""
        if "loss" in logs:
            self.losses.append(logs["loss"])


def rows() -> Dataset:
    """Plain text, so that no chat template has a part in it."""
    arithmetic = load_registry().datasets["arithmetic"](kind="demonstrations", size=2048)
    return Dataset.from_list(
        [
            {"prompt": row["prompt"][0]["content"], "completion": row["completion"][0]["content"]}
            for row in arithmetic
        ]
    )


def prepared(library: Any, method: str, data: Dataset, steps: int, folder: str) -> Any:
    """A trainer of ``library``'s for a fresh tiny model."""
    model, tokenizer = load_registry().models["tiny-deepseek-llm"](seed=0)
    common = {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": 32,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "seed": 0,
    }
    if library is trl_deepseek:
        common["prefix_sharing"] = "off"  # its passes and rollouts are TRL's
    if method == "SFT":
        trainer = library.SFTTrainer(
            model,
            library.SFTConfig(**common, learning_rate=1e-3),
            train_dataset=data,
            processing_class=tokenizer,
        )
    else:
        config = library.GRPOConfig(
            **common, num_generations=8, max_completion_length=24, learning_rate=1e-4
        )
        trainer = library.GRPOTrainer(
            model,
            even_length,
            config,
            train_dataset=data.select_columns(["prompt"]),
            processing_class=tokenizer,
        )
    trainer.remove_callback(PrinterCallback)
    return trainer


def train(libraries: Sequence[Any], method: str, data: Dataset, steps: int) -> list[Steps]:
    """Train with each library, a step of one and then of the next, and return their steps."""
    turns = Turns(len(libraries))

    def go(trainer: Any, recorded: Steps) -> Steps:
        turns.wait(recorded.run)
        try:
            trainer.train()
        finally:
            turns.pass_on(recorded.run, last=True)
        return recorded

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(libraries)) as pool:
        runs = []
        for number, library in enumerate(libraries):
            trainer = prepared(library, method, data, steps, f"{folder}/{number}")
            recorded = Steps(turns, number)
            trainer.add_callback(recorded)
            turns.keep(number)
            runs.append((trainer, recorded))
        return list(pool.map(go, *zip(*runs, strict=True)))


def compare(method: str, data: Dataset, steps: int, rounds: int) -> dict[str, Any]:
    """Train with both, ``rounds`` times, the order alternating."""
    stock: list[Steps] = []
    ours: list[Steps] = []
    for number in range(rounds):
        order = (trl, trl_deepseek) if number % 2 == 0 else (trl_deepseek, trl)
        for library, recorded in zip(order, train(order, method, data, steps), strict=True):
            (stock if library is trl else ours).append(recorded)
    return {
        "trainer": method,
        "steps": steps,
        "rounds": rounds,
        "losses_identical": all(a.losses == b.losses for a, b in zip(stock, ours, strict=True)),
        **{
            of: beside([getattr(r, of)[1:] for r in stock], [getattr(r, of)[1:] for r in ours])
            for of in TIMES
        },
    }


def beside(stock: list[list[float]], ours: list[list[float]]) -> dict[str, float]:
    """Milliseconds per step of both, and the ratio of a step to the same step, with quartiles."""
    pairs = [pair for runs in zip(stock, ours, strict=True) for pair in zip(*runs, strict=True)]
    low, ratio, high = statistics.quantiles([b / a for a, b in pairs], n=4)
    return {
        "trl_ms": 1000 * statistics.median(a for a, _ in pairs),
        "ours_ms": 1000 * statistics.median(b for _, b in pairs),
        "ratio": ratio,
        "low": low,
        "high": high,
    }


def main() -> int:
    """Print the table; exit code 1 where a loss differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    data = rows()
    results = [compare(method, data, args.steps, args.rounds) for method in ("SFT", "GRPO")]
    if args.json:
        print(json.dumps(results))
    else:
        table = Table(title="Stock TRL and trl_deepseek, no plugin used", title_justify="left")
        for name in ("trainer", "losses", "time", "TRL", "ours", "ours / TRL", "quartiles"):
            left = name in ("trainer", "losses", "time")
            table.add_column(name, justify="left" if left else "right")
        for result in results:
            losses = "identical" if result["losses_identical"] else "DIFFERENT"
            for of in TIMES:
                time_ = result[of]
                table.add_row(
                    result["trainer"],
                    losses,
                    of,
                    f"{time_['trl_ms']:.1f} ms",
                    f"{time_['ours_ms']:.1f} ms",
                    f"{time_['ratio']:.3f}",
                    f"{time_['low']:.3f} to {time_['high']:.3f}",
                )
        Console().print(table)
    return 0 if all(result["losses_identical"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
