"""From conversations to tokens: rows per second of ours and of stock TRL's.

    python benchmarks/data.py [--rows 100000] [--processes 1 2] [--json]

What is timed is the trainer's constructor, which reads, checks, renders and tokenises; ours also
looks at every row beforehand. Both sides have the same tokenizer and template (``deepseek-v3``),
the same rows of four turns from a JSON file, the loss on the assistant's tokens, and folders of
their own for the cache of datasets; "again" is the same in a second process, as a second run would
make it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIDES = ("TRL", "ours")


def write(file: Path, rows: int) -> None:
    """Conversations of four turns, each unlike the others."""
    with file.open("w", encoding="utf-8") as out:
        for row in range(rows):
            turns = [
                {
                    "role": role,
                    "content": f"{row} {turn} " + "what follows from this line, then? " * 4,
                }
                for turn, role in enumerate(("user", "assistant") * 2)
            ]
            out.write(json.dumps({"messages": turns}) + "\n")


def child(side: str, file: str, processes: int, cache: str) -> float:
    """Seconds of one constructor."""
    import datasets
    import trl
    from transformers import AutoTokenizer

    import trl_deepseek
    from trl_deepseek import load_registry

    datasets.disable_progress_bars()
    registry = load_registry()
    model, tokenizer = registry.models["tiny-deepseek-llm"]()
    tokenizer.save_pretrained(Path(cache, "tokenizer"))
    tokenizer = AutoTokenizer.from_pretrained(Path(cache, "tokenizer"))
    if side == "TRL":  # as its users hand it one: a template that marks what is generated
        template = registry.chat_templates["deepseek-v3"]
        tokenizer.chat_template, tokenizer.eos_token = template.training, template.end_of_turn
    library: Any = trl if side == "TRL" else trl_deepseek
    settings: dict[str, Any] = {
        "output_dir": cache,
        "assistant_only_loss": True,
        "max_length": 1024,
        "dataset_num_proc": processes if processes > 1 else None,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
    }
    if side == "ours":
        settings |= {"chat_template": "deepseek-v3"}
    rows = datasets.load_dataset("json", data_files=file, split="train", cache_dir=cache)
    began = time.perf_counter()
    library.SFTTrainer(
        model,
        args=library.SFTConfig(**settings),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    return time.perf_counter() - began


def main() -> int:
    """Measure, and print rows per second."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        side, file, processes, cache = args.child
        print(child(side, file, int(processes), cache))
        return 0
    found = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "rows.jsonl")
        write(file, args.rows)
        for processes in args.processes:
            row: dict[str, Any] = {"processes": processes}
            for side in SIDES:
                cache = str(Path(folder, f"{side}{processes}"))
                for when in ("first", "again"):
                    words = ["--child", side, str(file), str(processes), cache]
                    done = subprocess.run(
                        [sys.executable, __file__, *words],
                        stdout=subprocess.PIPE,
                        text=True,
                        check=True,
                    )
                    row[f"{side} {when}"] = args.rows / float(done.stdout.splitlines()[-1])
            found.append(row)
    if args.json:
        print(json.dumps(found))
        return 0
    print("| processes | TRL, rows/s (again) | ours (again) | ours / TRL |\n|---|---|---|---|")
    for row in found:
        shown = [f"{row[f'{s} first']:.0f} ({row[f'{s} again']:.0f})" for s in SIDES]
        ratio = row["ours first"] / row["TRL first"]
        print(f"| {row['processes']} | {shown[0]} | {shown[1]} | {ratio:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
