"""The quickstart's figures over seeds, each with its arithmetic rounded in several ways.

    python benchmarks/quickstart.py [--seeds 0 1 2 3 4] [--ways thread threads] [--log FILE]

Every run is a process of its own, one after another. With ``--log`` each is written to a file as it
ends, one JSON object per line, and those that stand there already are not run again. The last line
of the table gives the ranges, and the exit code is 1 where one of the bounds does not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# A way is what changes the order or the width of sums: threads, precision, the instructions used.
WAYS: dict[str, tuple[int, str, dict[str, str]]] = {
    "thread": (1, "highest", {}),
    "threads": (2, "highest", {}),
    "high": (1, "high", {}),
    "avx2": (1, "highest", {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}),
}
CHANCE = 0.2
Run = dict[str, Any]


def holds(run: Run) -> bool:
    """SFT near a guess and without thinking; GRPO right and thinking, a gain beyond doubt."""
    sft, grpo = run["sft"], run["grpo"]
    learned = grpo["exact_match"] >= 0.9 and grpo["thinks"] >= 0.95 and run["gain"][0] > 0
    return abs(sft["exact_match"] - CHANCE) <= 0.15 and sft["thinks"] < 0.2 and learned


def child(seed: int, way: str) -> None:
    """One run, printed as JSON."""
    import datasets
    import torch

    from trl_deepseek.quickstart import Quickstart, job

    datasets.disable_progress_bars()
    job.THREADS, precision, _ = WAYS[way]
    torch.set_float32_matmul_precision(precision)
    with tempfile.TemporaryDirectory() as folder:
        result = Quickstart(Path(folder) / "run", seed, lambda *_: None).run()
    stages = {stage["name"]: stage for stage in result.as_json()["stages"]}
    found = next(d for d in result.evaluation.differences() if d.metric == "exact_match").estimate
    used = os.times()
    row = {"seed": seed, "way": way, **stages}
    row["taught"] = next(p.made_to_think for p in result.points if p.stage == "grpo")
    row["gain"] = found.low, found.high  # 95 % interval over the same questions
    print(json.dumps({**row, "seconds": result.seconds, "cpu_seconds": used.user + used.system}))


def start(seed: int, way: str) -> Run:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--child", str(seed), way]
    environment = {**os.environ, **WAYS[way][2], "OMP_NUM_THREADS": str(WAYS[way][0])}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: Run = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    """Run what is not in the log, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--log", type=Path, help="JSON lines, read and added to.")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(int(args.child[0]), args.child[1])
        return 0
    lines = args.log.read_text().splitlines() if args.log and args.log.exists() else []
    runs: list[Run] = [json.loads(line) for line in lines]
    known = {(run["seed"], run["way"]) for run in runs}
    for seed in args.seeds:
        for way in args.ways:
            if (seed, way) not in known:
                runs.append(start(seed, way))
                if args.log:
                    with args.log.open("a") as log:
                        log.write(json.dumps(runs[-1]) + "\n")
    Console(width=140).print(table(runs))
    return 0 if all(map(holds, runs)) else 1


def table(runs: list[Run]) -> Table:
    """A line for each run, and the ranges."""
    columns = {
        "SFT right": [run["sft"]["exact_match"] for run in runs],
        "SFT thinks": [run["sft"]["thinks"] for run in runs],
        "if made to think": [run["taught"] for run in runs],
        "GRPO right": [run["grpo"]["exact_match"] for run in runs],
        "GRPO thinks": [run["grpo"]["thinks"] for run in runs],
    }
    view = Table()
    for name in ("seed", "way", *columns, "gain", "CPU seconds", "holds"):
        view.add_column(name, justify="right")
    for place, run in enumerate(runs):
        shares = [f"{values[place]:.3f}" for values in columns.values()]
        gain = "{:.2f} to {:.2f}".format(*run["gain"])
        cpu = f"{run['cpu_seconds']:.0f}"
        told = "yes" if holds(run) else "no"
        view.add_row(str(run["seed"]), run["way"], *shares, gain, cpu, told)
    view.add_section()
    ranges = [f"{min(values):.3f} to {max(values):.3f}" for values in columns.values()]
    view.add_row("all", "", *ranges, "", "", f"{sum(map(holds, runs))} of {len(runs)}")
    return view


if __name__ == "__main__":
    sys.exit(main())
