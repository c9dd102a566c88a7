"""Score a batch of completions with this package and with TRL, in one run, and print both.

    python benchmarks/rewards.py [--completions 512] [--milliseconds 50] [--json]

Both sides call ``_calculate_rewards`` of a trainer on the embedded model with the same rewards:

- ``work``: ``math_accuracy``, and a reward that computes for 50 ms per completion. TRL runs one
  after the other in the training process; here two worker processes share the completions.
- ``hang``: one completion of the batch makes its reward hang; the deadline is 2 s. TRL has none.
- ``trivial``: a reward that returns constants: what the contract itself costs per call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

HANG_TIMEOUT = 2.0


def computes(completion: str, milliseconds: float) -> float:
    """Keep a processor busy, then score."""
    end = time.thread_time() + milliseconds / 1000
    while time.thread_time() < end:
        sum(range(1000))
    return float(len(completion) % 2)


def computes_batch(completions: Sequence[Any], milliseconds: float, **_: Any) -> list[float]:
    """As :func:`computes`, in the one form that TRL has."""
    return [computes(completion[-1]["content"], milliseconds) for completion in completions]


def hangs(completion: str) -> float:
    """Hang on the completion ``13``."""
    while completion == "13":
        time.sleep(3600)
    return 1.0


def trivial(completions: Sequence[Any], **_: Any) -> list[float]:
    """Score without looking."""
    return [1.0] * len(completions)


def build(kind: Callable[..., Any], rewards: list[Any], folder: str, **options: Any) -> Any:
    """A trainer of ``kind`` that will not train."""
    from trl_deepseek import load_registry
    from trl_deepseek.trainers.configs import GRPOConfig

    registry = load_registry()
    model, tokenizer = registry.models["tiny-deepseek-llm"]()
    data = registry.datasets["arithmetic"](size=8)
    args = GRPOConfig(
        output_dir=folder,
        report_to="none",
        use_cpu=True,
        bf16=False,
        max_steps=1,
        chat_template="role-tokens",
        **options,
    )
    return kind(model, rewards, args, train_dataset=data, processing_class=tokenizer)


def seconds(trainer: Any, rows: list[dict[str, Any]]) -> tuple[float, list[Any]]:
    """Time of one ``_calculate_rewards``, and the scores per completion."""
    prompts = [row["prompt"] for row in rows]
    completions = [[{"role": "assistant", "content": row["text"]}] for row in rows]
    ids = [[1]] * len(rows)
    started = time.perf_counter()
    scores = trainer._calculate_rewards(rows, prompts, completions, ids)
    return time.perf_counter() - started, scores.tolist()


def main() -> int:
    """Run the three parts and print one table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--completions", type=int, default=512)
    parser.add_argument("--milliseconds", type=float, default=50.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    import trl

    from trl_deepseek import GRPOTrainer, load_registry

    math_accuracy = load_registry().rewards["math_accuracy"]
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{i}+1="}],
            "text": str(-i if i % 2 else i + 1),  # all differ: identical samples are scored once
            "solution": str(i + 1),
        }
        for i in range(options.completions)
    ]
    figures: dict[str, Any] = {"completions": len(rows), "workers": options.workers}
    with tempfile.TemporaryDirectory() as folder:
        work = {"milliseconds": options.milliseconds}
        theirs = [math_accuracy.function, partial(computes_batch, **work)]
        stock = build(trl.GRPOTrainer, theirs, folder)
        ours = build(
            GRPOTrainer,
            [math_accuracy, partial(computes, **work)],
            folder,
            reward_workers=options.workers,
        )
        for trainer in (stock, *[ours] * 4):  # imports and processes, in each of our workers
            seconds(trainer, rows[: 4 * options.workers])
        figures["trl_seconds"], expected = seconds(stock, rows)
        figures["our_seconds"], found = seconds(ours, rows)
        if found != expected:
            raise SystemExit("the two sides do not score alike")
        figures["speedup"] = figures["trl_seconds"] / figures["our_seconds"]

        limited = {"reward_on_error": "abstain", "reward_timeout": HANG_TIMEOUT}
        hanging = build(GRPOTrainer, [hangs], folder, reward_workers=options.workers, **limited)
        seconds(hanging, rows[:4])
        figures["hang_timeout"] = HANG_TIMEOUT
        figures["hang_seconds"], scores = seconds(hanging, rows)
        figures["hang_lost"] = sum(score != score for (score,) in scores)

        per_call = []
        pair = build(trl.GRPOTrainer, [trivial], folder), build(GRPOTrainer, [trivial], folder)
        for _ in range(200):
            (stock_time, _s), (our_time, _s) = (seconds(trainer, rows) for trainer in pair)
            per_call.append((our_time - stock_time) * 1000)
        figures["trivial_overhead_ms"] = statistics.median(per_call)
    if options.json:
        print(json.dumps(figures))
    else:
        for name, figure in figures.items():
            print(
                f"{name:22}{figure:>10.3f}"
                if isinstance(figure, float)
                else f"{name:22}{figure:>10}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
