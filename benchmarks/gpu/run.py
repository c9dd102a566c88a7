"""All parts of ``benchmarks/gpu.sh``: each with its time limit, one table and one JSON for all.

    python -m benchmarks.gpu.run OUT [--seconds 460]

A part that fails, hangs or is cut off stops no other, and what it did not measure stands in the
table with the reason. Without a GPU every part runs on tiny shapes and measures no memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.gpu import MARK

SECONDS = 460  # for all parts together
LEAST = 20  # seconds below which a part is not begun
VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")


@dataclass(frozen=True)
class Part:
    """One process.

    Attributes:
        title: Of its table.
        command: Its arguments after ``python``.
        limit: Seconds.
        head: The columns.
        row: From the figures of a cell to its columns, without the first, which is the name.
    """

    title: str
    command: list[str]
    limit: int
    head: tuple[str, ...]
    row: Callable[[dict[str, Any]], list[str]]


def milliseconds(value: float) -> str:
    """Seconds as milliseconds."""
    return f"{1000 * value:.1f} ms"


def gigabytes(value: float | None) -> str:
    """Bytes as GB; why not, where there are none."""
    return "not measured: no CUDA device" if value is None else f"{value / 1e9:.2f} GB"


def head_row(found: dict[str, Any]) -> list[str]:
    """A cell of ``head.py``."""
    seconds, error = milliseconds(found["seconds"]), f"{found['error']:.1e}"
    return [seconds, gigabytes(found.get("bytes")), error]


def attention_row(found: dict[str, Any]) -> list[str]:
    """A cell of ``attention.py``; making a mask has a time only."""
    memory = gigabytes(found["bytes"]) if "bytes" in found else ""
    return [milliseconds(found["seconds"]), memory]


def step_row(found: dict[str, Any]) -> list[str]:
    """A cell of ``steps.py``."""
    apart = milliseconds(found["update"]) if "update" in found else ""
    losses = ", ".join(f"{loss:.4f}" for loss in found["losses"])
    return [milliseconds(found["seconds"]), apart, gigabytes(found.get("bytes")), losses]


def memory_row(found: dict[str, Any]) -> list[str]:
    """A cell of ``memory.py``."""
    measured = found.get("measured")
    ratio = f"{found['estimated'] / measured:.2f}" if measured else ""
    sizes = [gigabytes(measured), gigabytes(found["estimated"]), ratio]
    return [*sizes, found["optimizer"], gigabytes(found["paged"]) if "paged" in found else ""]


def qlora_row(found: dict[str, Any]) -> list[str]:
    """A cell of ``gpu_qlora.py``."""
    if "tokens_per_second" not in found:  # the estimate
        return [gigabytes(found["peak"]), "", ""]
    speed = f"{found['tokens_per_second']:.0f}"
    return [gigabytes(found.get("peak")), gigabytes(found.get("reserved")), speed]


def test_row(found: dict[str, Any]) -> list[str]:
    """One test."""
    return [found["outcome"]]


STEPS = ("a step", "of it the update", "peak", "first losses")
HEAD = ("log-probs", "forward and backward", "beyond the inputs", "largest error")
ATTENTION = ("attention in one layer", "forward and backward", "beyond the inputs")
PARTS = (
    Part(
        "GPU tests",
        ["-m", "pytest", "-m", "gpu", "tests/gpu", "-v", "-rs", "--tb=short", "-p", "no:xdist"],
        120,
        ("test", "outcome"),
        test_row,
    ),
    Part("Log-probs, bfloat16", ["-m", "benchmarks.gpu.head"], 50, HEAD, head_row),
    Part(
        "Steps at 1B, LoRA, bfloat16",
        ["-m", "benchmarks.gpu.steps", "1B"],
        120,
        ("1B", *STEPS),
        step_row,
    ),
    Part(
        "Attention in a forest, bfloat16",
        ["-m", "benchmarks.gpu.attention"],
        60,
        ATTENTION,
        attention_row,
    ),
    Part(
        "Steps at 7B, LoRA, bfloat16",
        ["-m", "benchmarks.gpu.steps", "7B"],
        110,
        ("7B", *STEPS),
        step_row,
    ),
    Part(
        "Memory estimated and measured",
        ["-m", "benchmarks.gpu.memory"],
        100,
        ("run", "measured", "estimated", "ratio", "optimizer", "of it paged"),
        memory_row,
    ),
    Part(
        "QLoRA, 7B, a batch of one text of 2048 tokens",
        ["benchmarks/gpu_qlora.py", "--steps", "6", "--lines"],
        130,
        ("run", "peak allocated", "peak reserved", "tokens/s"),
        qlora_row,
    ),
)


def run(part: Part, limit: float, log: Path) -> tuple[str | None, float]:
    """Run a part into ``log``; what went wrong, if anything did, and the seconds it took."""
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "TRL_DEEPSEEK_GPU_DRY_RUN": "1"}
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, *part.command],
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"cut off after {limit:.0f} s", time.perf_counter() - start
    took = time.perf_counter() - start
    if code < 0:
        return f"ended by signal {-code}", took
    return (f"ended with exit code {code}" if code else None), took


def read(log: Path, wrong: str | None) -> dict[str, dict[str, Any]]:
    """The figures of each cell in a log, or under ``failed`` why there are none."""
    found: dict[str, dict[str, Any]] = {}
    planned: list[str] = []
    text = log.read_text(errors="replace")
    for line in text.splitlines():
        test = re.match(r"tests/gpu/(\S+\.py::.+?) (PASSED|FAILED|SKIPPED|ERROR|XFAIL)", line)
        if test:
            found[test[1]] = {"outcome": test[2].lower()}
        if not line.startswith(MARK):
            continue
        figures = json.loads(line.removeprefix(MARK))
        if "plan" in figures:
            planned = figures["plan"]
        else:
            found[figures.pop("cell")] = figures
    for name in planned:
        found.setdefault(name, {"failed": wrong or "no figures came"})
    if not found:
        said = [line for line in text.splitlines() if line.strip()]
        found["all"] = {"failed": f"{wrong or 'no figures came'}: {said[-1] if said else ''}"}
    return found


def table(part: Part, cells: dict[str, dict[str, Any]]) -> str:
    """Markdown."""
    lines = [f"### {part.title}", "", f"| {' | '.join(part.head)} |", "|---" * len(part.head) + "|"]
    for name, found in cells.items():
        if "failed" in found:
            row = [f"not measured: {found['failed']}"] + [""] * (len(part.head) - 2)
        else:
            row = part.row(found)
        lines.append(f"| {' | '.join([name, *(each.replace('|', '/') for each in row)])} |")
    return "\n".join(lines)


def machine() -> dict[str, str]:
    """Where it ran."""
    found = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
        found["device"] = said.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        found["device"] = "no CUDA device: tiny shapes on the CPU, a dry run"
    return found


def main() -> int:
    """Run the parts; exit code 1 where one of them did not do all it should."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for results.md, results.json and the logs")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="for all; more gives each part more as well"
    )
    parser.add_argument("--only", nargs="*", default=[], help="parts whose titles begin so")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + args.seconds
    results: dict[str, Any] = {"machine": machine(), "parts": {}}
    where = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    tables = [f"## {results['machine']['device']}", "", where, ""]
    good = True
    for number, part in enumerate(PARTS):
        if args.only and not part.title.startswith(tuple(args.only)):
            continue
        left = end - time.monotonic()
        log = args.out / f"part{number}.log"
        wrong: str | None
        if left < LEAST:
            wrong, took = "not begun: the time for all parts was used up", 0.0
            log.write_text("")
        else:
            limit = part.limit * max(1.0, args.seconds / SECONDS)
            wrong, took = run(part, min(limit, left), log)
        cells = read(log, wrong)
        good &= wrong is None
        results["parts"][part.title] = {"seconds": round(took, 1), "wrong": wrong, "cells": cells}
        note = f"{took:.0f} s" + (f"; {wrong}" if wrong else "")
        tables += [table(part, cells), "", note, ""]
        (args.out / "results.json").write_text(json.dumps(results, indent=1))
        (args.out / "results.md").write_text("\n".join(tables))
        print(f"{part.title}: {note}", flush=True)
    print("\n" + "\n".join(tables))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
