"""Whole training steps of ours against stock TRL's, in one process and in turn.

    python benchmarks/speed.py [--only dpo kto grpo] [--rounds 3] [--layers 8] [--json]

`make bench` measures everything and writes benchmarks/speed.json and its table, speed.md.

Each work (works.py) is a trainer on rows of exactly P prompt tokens and C tokens per completion: a
small Llama (hidden size 512, vocabulary 32000 unless ``--layers`` and ``--vocabulary`` say
otherwise), LoRA, float32. Both sides have the same weights and the same batch; a step is TRL's
``training_step``, forward, reference and backward; of GRPO the update from given completions, the
rollout, or both (``grpo step``). ORPO and SimPO are TRL's experimental trainers on its side, and
"sft packed, padded" packs the texts on our side and pads them on TRL's. "head" has full logits in
TRL's place, of 1024 positions, and of 16 in a type that the processor has no products for. "nothing
switched on" is stock_trl.py on one thread, with quartiles of the ratio of a step to the same step.
Each row has a process of its own, in which the order alternates from round to round, after one
round that is not counted. Times are medians. "Faster" is the geometric mean of the rounds' ratios
and its 95 % interval by Student's t, so that few rounds claim little: by processor time, which
other work on the machine distorts least, and by the clock, which is what one waits for. Peak memory
is what one more step adds to the process at most, from the system's mark.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import stock_trl  # type: ignore[import-not-found]
import torch
import trl
from scipy.stats import ttest_1samp
from works import WORKS, Work, prepared  # type: ignore[import-not-found]

import trl_deepseek
from trl_deepseek.lm_head.streaming_softmax import score

SIDES = (("TRL", trl), ("ours", trl_deepseek))
HEADS = {"head, frozen, float32": torch.float32, "head, frozen, bfloat16": torch.bfloat16}
LABELS = ("trl", "ours")
TIMES = ("processor", "clock")
PLAIN = {"sft, nothing switched on": "SFT", "grpo, nothing switched on": "GRPO"}


def step(work: Work, trainer: Any, batch: Any) -> float:
    """Take one step; its loss."""
    run = work.run or (lambda trainer, batch: trainer.training_step(trainer.model, {**batch}))
    trainer.model.zero_grad()
    return float(torch.as_tensor(run(trainer, batch)).detach())


def sides(work: Work, folder: str, layers: int, vocabulary: int) -> dict[str, Callable[[], float]]:
    """A step of stock TRL's and one of ours."""
    return {
        side: partial(step, work, *prepared(library, work, folder, layers, vocabulary))
        for side, library in SIDES
    }


def scored(dtype: torch.dtype) -> int:
    """How many positions the row of the head scores: fewer where the row would take hours."""
    return 1024 if rate(dtype) > rate(torch.float32) / 16 else 16


def head(dtype: torch.dtype, positions: int) -> dict[str, Callable[[], float]]:
    """Log-probs of ``positions`` tokens under a frozen head of 102400 x 1024, their gradient."""
    torch.manual_seed(0)
    weight = torch.randn(102_400, 1024, dtype=dtype) / 32
    hidden = torch.randn(positions, 1024, dtype=dtype, requires_grad=True)
    target = torch.randint(len(weight), (len(hidden),))

    def full_logits() -> torch.Tensor:
        logps = (hidden @ weight.t()).float().log_softmax(-1)
        return logps.gather(1, target[:, None])

    def backward(logps: torch.Tensor) -> float:
        hidden.grad = None
        logps.sum().backward()
        return float(logps.detach().mean())

    return {
        "TRL": lambda: backward(full_logits()),
        "ours": lambda: backward(score(hidden, weight, None, target).logps),
    }


def plain(trainer: str, rounds: int) -> dict[str, Any]:
    """A row of stock_trl.py: the tiny Llama's steps."""
    torch.set_num_threads(1)  # more would only wait for each other in so small a model
    found = stock_trl.compare(trainer, stock_trl.rows(), 16, 4 * rounds)
    return {
        "seconds": {of: [found[of][f"{s}_ms"] / 1000 for s in LABELS] for of in TIMES},
        "faster": {of: [1 / found[of][k] for k in ("ratio", "high", "low")] for of in TIMES},
        "spread": "quartiles",
        "losses_identical": found["losses_identical"],
    }


def peak(take: Callable[[], float]) -> float:
    """Megabytes that one more step adds at most, once what earlier ones left is given back."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark begins anew
    before = resident("VmRSS")
    take()
    return resident("VmHWM") - before


def resident(which: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (at most so far) of this process, in MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith(which))


def in_turn(steps: dict[str, Callable[[], float]], rounds: int) -> dict[str, Any]:
    """One row of the table: a step of TRL's side and one of ours, the order alternating."""
    found: dict[str, list[tuple[float, float, float]]] = {side: [] for side in steps}
    for number in range(rounds + 1):
        for side in found if number % 2 == 0 else reversed(found):
            clock, began = time.perf_counter(), time.process_time()
            loss = steps[side]()
            found[side].append((time.process_time() - began, time.perf_counter() - clock, loss))
    peaks = [peak(take) for take in steps.values()]
    stock, ours = ([each[1:] for each in zip(*found[side], strict=True)] for side in steps)
    ratios = [[a / b for a, b in zip(stock[i], ours[i], strict=True)] for i in range(len(TIMES))]
    return {
        "seconds": {
            of: [statistics.median(side[i]) for side in (stock, ours)] for i, of in enumerate(TIMES)
        },
        "faster": {of: mean_ratio(ratios[i]) for i, of in enumerate(TIMES)},
        "spread": f"95 %, {rounds} rounds" if rounds > 1 else "one round",
        "ratios": dict(zip(TIMES, ratios, strict=True)),
        "megabytes": peaks,
        "losses": [stock[2][0], ours[2][0]],
    }


def mean_ratio(ratios: list[float]) -> list[float]:
    """Geometric mean and its 95 % interval, Student's t of the logarithms; one has no interval."""
    if len(ratios) == 1:
        return ratios
    logs = [math.log(ratio) for ratio in ratios]
    return [
        math.exp(value)
        for value in (statistics.fmean(logs), *ttest_1samp(logs, 0).confidence_interval())
    ]


def compare(name: str, rounds: int, layers: int, vocabulary: int) -> dict[str, Any]:
    """The row of this name."""
    if name in PLAIN:
        return {"work": name, **plain(PLAIN[name], rounds)}
    if name in HEADS:
        positions = scored(HEADS[name])
        row = in_turn(head(HEADS[name], positions), rounds)
        return {"work": f"{name}, N={positions}", **row}
    work = WORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        return {"work": name, **in_turn(sides(work, folder, layers, vocabulary), rounds)}


def table(results: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| step | TRL, clock (processor) | ours | faster, processor time | by the clock | between "
        "| memory, TRL | ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        memory = [f"{size:.0f} MB" for size in r["megabytes"]] if "megabytes" in r else ["", ""]
        times = zip(*(r["seconds"][of] for of in reversed(TIMES)), strict=True)
        cells = [
            r["work"],
            *(f"{clock:.2f} s ({processor:.2f})" for clock, processor in times),
            *(between(*r["faster"][of]) for of in TIMES),
            r["spread"],
            *memory,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def between(faster: float, low: float | None = None, high: float | None = None) -> str:
    """The ratio, and in brackets what it lies between."""
    return f"{faster:.2f}x" + (f" ({low:.2f} to {high:.2f})" if low is not None else "")


def rate(dtype: torch.dtype, size: int = 256) -> float:
    """Floating-point operations a second of a product of square matrices, best of five."""
    left = torch.randn(size, size).to(dtype)
    rates = []
    for _ in range(5):
        began = time.perf_counter()
        left @ left
        rates.append(2 * size**3 / (time.perf_counter() - began))
    return max(rates)


def roofline(threads: int) -> str:
    """What the machine multiplies, measured on the spot."""
    found = rate(torch.float32, 2048) / 1e9
    return f"Matrix product, float32, {threads} threads: {found:.0f} GFLOP/s."


def write(name: str, results: list[dict[str, Any]], text: str) -> None:
    """Into NAME.json and NAME.md."""
    Path(f"{name}.json").write_text(json.dumps(results, indent=1) + "\n")
    Path(f"{name}.md").write_text(f"# Steps against stock TRL: `make bench`\n\n{text}\n")


def at_least(lowest: int) -> Callable[[str], int]:
    """What argparse reads a number with."""

    def number(text: str) -> int:
        if int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text} is less than {lowest}")
        return int(text)

    return number


def in_a_folder(name: str) -> str:
    """What argparse reads the name of results with, which are written at the end."""
    if not Path(name).parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {Path(name).parent}")
    return name


def main() -> int:
    """Measure the works that are asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", "--works", nargs="+", default=[""], help="beginnings of names")
    parser.add_argument("--rounds", type=at_least(1), default=3)
    parser.add_argument("--layers", type=at_least(1), default=8)
    parser.add_argument("--vocabulary", type=at_least(1024), default=32_000)
    parser.add_argument("--threads", type=at_least(1), default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--write", type=in_a_folder, help="also write NAME.json and its table, NAME.md, here"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    every = [*WORKS, *HEADS, *PLAIN]
    chosen = [name for name in every if name.startswith(tuple(args.only))]
    for start in args.only:
        if not any(name.startswith(start) for name in every):
            parser.error(f"no work begins with {start!r}; there are {', '.join(every)}")
    results: list[dict[str, Any]] = []
    text = ""
    for name in chosen:
        # A process for each row, so that no row begins with the memory of the one before.
        with ProcessPoolExecutor(
            1, get_context("spawn"), torch.set_num_threads, (args.threads,)
        ) as one:
            row = one.submit(compare, name, args.rounds, args.layers, args.vocabulary).result()
        results.append(row)
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)  # what is known so far
        text = f"{table(results)}\n\n{roofline(args.threads)}"
        if args.write:
            write(args.write, results, text)
    print(json.dumps(results) if args.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
