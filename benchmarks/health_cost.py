"""What the watch over a run costs: its share of a step, and the seconds per GB of weights checked.

    python benchmarks/health_cost.py

Trains the embedded model for some steps on the CPU and times every call of the watch and of the
warnings inside them; then checks 1 GB of weights per dtype, as before training and on each save.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch

from trl_deepseek import SFTConfig, SFTTrainer, health, load_registry
from trl_deepseek.health.advice import Advice

STEPS = 50
GIGABYTE = 2**30


def main() -> None:
    """Print one JSON object."""
    spent: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent.append(time.perf_counter() - start)

        return call

    for owner, name in (
        (health.Watch, "saw"),
        (health.Watch, "check_loss"),
        (health.Watch, "check_gradient"),
        (Advice, "on_log"),
    ):
        setattr(owner, name, timed(getattr(owner, name)))
    registry = load_registry()
    model, tokenizer = registry.models["tiny-deepseek-llm"]()
    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            folder,
            max_steps=STEPS,
            per_device_train_batch_size=8,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        )
        rows = registry.datasets["arithmetic"](kind="demonstrations", size=400)
        trainer = SFTTrainer(model, config, train_dataset=rows, processing_class=tokenizer)
        start = time.perf_counter()
        trainer.train()
        whole = time.perf_counter() - start
    found = {
        "step_ms": 1000 * whole / STEPS,
        "watch_ms": 1000 * sum(spent) / STEPS,
        "share_percent": 100 * sum(spent) / whole,
    }
    for dtype in (torch.float32, torch.bfloat16):
        weights = torch.zeros(GIGABYTE // dtype.itemsize, dtype=dtype)
        start = time.perf_counter()
        health.not_finite([("weights", weights)])
        found[f"seconds_per_GB_{str(dtype).removeprefix('torch.')}"] = time.perf_counter() - start
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
