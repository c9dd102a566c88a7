"""Our trainers against stock TRL's where no plugin is used: same losses, same time per step.

    python benchmarks/stock_trl.py [--steps 20] [--rounds 5] [--json]

Both train the same tiny model on the same rows with the same seed, in one process and in turn, so
that whatever else the machine does meets both. Losses must be equal to the last bit. Then a step of
ours does the same work as that step of TRL's, so that the ratio is taken step by step: the median
over all steps and rounds, with its quartiles. Processor time (of all threads) counts what a busy
machine cannot distort as much as it does the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

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


@dataclass
class Steps(TrainerCallback):
    """Loss, seconds on the clock and seconds of processor time of each optimizer step."""

    losses: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    _start: tuple[float, float] = (0.0, 0.0)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start both clocks."""
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


def train(library: Any, method: str, data: Dataset, steps: int) -> Steps:
    """Train a fresh tiny model with ``library``'s trainer and return its steps."""
    model, tokenizer = load_registry().models["tiny-deepseek-llm"](seed=0)
    recorded = Steps()
    with tempfile.TemporaryDirectory() as folder:
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
        trainer.add_callback(recorded)
        trainer.train()
    return recorded


def compare(method: str, data: Dataset, steps: int, rounds: int) -> dict[str, Any]:
    """Train with both, ``rounds`` times in turn, the order alternating."""
    stock: list[Steps] = []
    ours: list[Steps] = []
    for number in range(rounds):
        pair = [(trl, stock), (trl_deepseek, ours)]
        for library, into in pair if number % 2 == 0 else reversed(pair):
            into.append(train(library, method, data, steps))
    return {
        "trainer": method,
        "steps": steps,
        "rounds": rounds,
        "losses_identical": all(a.losses == b.losses for a, b in zip(stock, ours, strict=True)),
        **{
            of: beside([getattr(r, of) for r in stock], [getattr(r, of) for r in ours])
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
