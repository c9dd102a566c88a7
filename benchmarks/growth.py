"""How a step's cost grows with the prompt, the group and the vocabulary, and what ``auto`` costs.

    python benchmarks/growth.py [--layers 2] [--rounds 2] [--write benchmarks/growth]

The works are those of works.py with a smaller model. ``--write NAME`` makes NAME.json and its
plots, NAME.png: ours and stock TRL's in processor seconds, and what tokens alone allow, TRL's time
by the share of them that is left once each prompt is read once. "auto" is our step with
``prefix_sharing="auto"`` against ours with ``off``, where sharing gains little or nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import speed  # type: ignore[import-not-found]
import torch
import works  # type: ignore[import-not-found]

import trl_deepseek

PAIRS = 1  # in a batch of DPO: with the longest prompt TRL's logits alone are two gigabytes
Point = dict[str, Any]


def dpo(prompt: int, completion: int) -> Any:
    """DPO on one pair."""
    work = works.preference(prompt, completion)
    return replace(work, batch=PAIRS, options={"max_length": 8192})


def grpo(prompt: int, completion: int, group: int) -> Any:
    """GRPO's update of one group."""
    return works.grpo(prompt, completion, works.update, group)


# Of each axis: what changes, and at each value the work, the vocabulary, and the share of tokens
# that is left once the prompt is read once.
AXES: dict[str, tuple[str, list[tuple[int, Any, int, float]]]] = {
    "dpo": (
        "prompt tokens P (DPO, C=64)",
        [
            (p, (dpo, (p, 64)), 32_000, (p + 128) / (2 * p + 128))
            for p in (64, 256, 1024, 2048, 4096)
        ],
    ),
    "group": (
        "completions of a prompt G (GRPO's update, P=256, C=64)",
        [(g, (grpo, (256, 64, g)), 32_000, (256 + 64 * g) / (320 * g)) for g in (2, 4, 8, 16, 32)],
    ),
    "vocabulary": (
        "vocabulary V (GRPO's update, P=256, C=64, G=8)",
        [
            (v, (grpo, (256, 64, 8)), v, (256 + 512) / (320 * 8))
            for v in (8_000, 32_000, 64_000, 128_000)
        ],
    ),
}
# Prompt and completion tokens of four pairs, and of a group, where the rule is near its threshold.
LITTLE: tuple[tuple[Any, tuple[int, ...]], ...] = (
    (works.preference, (4, 64)),
    (works.preference, (16, 64)),
    (works.preference, (32, 64)),
    (works.preference, (16, 256)),
    (works.preference, (64, 256)),
    (works.preference, (512, 8)),
    (grpo, (16, 64, 4)),
    (grpo, (32, 128, 4)),
    (grpo, (64, 256, 2)),
)


def compare(make: Any, layers: int, vocabulary: int, rounds: int) -> Point:
    """Processor seconds and megabytes of TRL's step and ours."""
    function, words = make
    work = function(*words)
    with tempfile.TemporaryDirectory() as folder:
        row = speed.in_turn(speed.sides(work, folder, layers, vocabulary), rounds)
    stock, ours = row["seconds"]["processor"]
    stock_peak, our_peak = row["megabytes"]
    return {
        "TRL": stock,
        "ours": ours,
        "TRL_megabytes": stock_peak,
        "ours_megabytes": our_peak,
    }


def auto(make: Any, layers: int, rounds: int) -> Point:
    """Our step with ``auto`` against ``off``."""
    function, words = make
    work = function(*words)
    with tempfile.TemporaryDirectory() as folder:
        made = {
            mode: works.prepared(
                trl_deepseek,
                replace(work, ours=work.ours | {"prefix_sharing": mode}),
                folder,
                layers,
                32_000,
            )
            for mode in ("off", "auto")
        }
        steps = {mode: partial(speed.step, work, *each) for mode, each in made.items()}
        row = speed.in_turn(steps, 4 * rounds)
        shared = made["auto"][0]._prefix_sharing.shared > 0
    ratio, high, low = (1 / faster for faster in row["faster"]["processor"])
    return {
        "work": f"{function.__name__} {', '.join(map(str, words))}",
        "shared": shared,
        "ratio": ratio,
        "interval": [low, high],
    }


def plot(found: dict[str, list[Point]], file: Path) -> None:
    """One picture with an axis for each of ``AXES``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(found), figsize=(5 * len(found), 4))
    for axis, (name, points) in zip(axes, found.items(), strict=True):
        values: Any = [point["value"] for point in points]
        stock = [point["TRL"] for point in points]
        axis.plot(values, stock, "o-", label="stock TRL")
        axis.plot(values, [point["ours"] for point in points], "o-", label="ours")
        bound = [time * point["left"] for time, point in zip(stock, points, strict=True)]
        axis.plot(values, bound, "--", color="gray", label="TRL's by tokens left")
        axis.set(xscale="log", yscale="log", xlabel=AXES[name][0], ylabel="processor seconds")
        axis.set_xticks(values, [f"{value:g}" for value in values])
        axis.minorticks_off()
        axis.legend()
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> int:
    """Measure every point, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--layers", type=speed.at_least(1), default=2)
    parser.add_argument("--rounds", type=speed.at_least(1), default=2)
    parser.add_argument("--write", type=speed.in_a_folder, help="NAME of NAME.json and NAME.png")
    args = parser.parse_args()

    def alone(function: Any, *words: Any) -> Any:
        with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (1,)) as one:
            return one.submit(function, *words).result()

    found: dict[str, list[Point]] = {}
    for name, (_, points) in AXES.items():
        found[name] = []
        for value, make, vocabulary, left in points:
            times = alone(compare, make, args.layers, vocabulary, args.rounds)
            found[name].append({"value": value, "left": left, **times})
            print(name, found[name][-1], file=sys.stderr, flush=True)
    rule = [alone(auto, each, args.layers, args.rounds) for each in LITTLE]
    print("| what grows | value | TRL | ours | faster |\n|---|---|---|---|---|")
    for name, measured in found.items():
        for point in measured:
            faster = point["TRL"] / point["ours"]
            times = " | ".join(
                f"{point[side]:.2f} s, {point[f'{side}_megabytes']:.0f} MB"
                for side in ("TRL", "ours")
            )
            print(f"| {AXES[name][0]} | {point['value']} | {times} | {faster:.2f}x |")
    print("\n| work: P, C, G | shared | auto / off | 95 % interval |\n|---|---|---|---|")
    for row in rule:
        between = "{:.3f} to {:.3f}".format(*row["interval"])
        print(f"| {row['work']} | {row['shared']} | {row['ratio']:.3f} | {between} |")
    if args.write:
        Path(f"{args.write}.json").write_text(json.dumps({**found, "auto": rule}, indent=1) + "\n")
        plot(found, Path(f"{args.write}.png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
